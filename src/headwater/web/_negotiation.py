"""What a client accepts (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headwater.web.problems import Problem

_STREAM = "text/event-stream"
# "The most specific reference has precedence."
_SPECIFICITY = {_STREAM: 2, "text/*": 1, "*/*": 0}


def accepts_event_stream(scope: Mapping[str, Any]) -> bool:
    """Whether a stream may be sent: named, covered by a range, or no preference at all.

    A quality of 0 means not acceptable.
    """
    accept = _accept_of(scope)
    known = [
        (_SPECIFICITY[media], quality)
        for media, quality in _ranges(accept)
        if media in _SPECIFICITY
    ]
    return not accept.strip() or max(known, default=(0, 0.0))[1] > 0


def asks_for_event_stream(scope: Mapping[str, Any]) -> bool:
    """Whether a stream is asked for by its own name."""
    ranges = _ranges(_accept_of(scope))
    return any(media == _STREAM and quality > 0 for media, quality in ranges)


def _accept_of(scope: Mapping[str, Any]) -> str:
    found = [value for name, value in scope["headers"] if name == b"accept"]
    return b",".join(found).decode("latin-1")


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        media, *parameters = part.split(";")
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                try:
                    quality = min(max(float(value.strip()), 0.0), 1.0)
                except ValueError:
                    quality = 0.0
        yield media.strip().lower(), quality


def not_acceptable(path: str, *, paired: bool = True) -> Problem:
    """The problem for a stream that was asked for as something else.

    Arguments:
        paired: the path without ``/stream`` is that of its REST twin.
    """
    detail = f"{path} answers text/event-stream only: send Accept: text/event-stream."
    if not paired:
        return Problem(406, detail)
    twin = path.removesuffix("/stream")
    return Problem(406, f"{detail} GET {twin} answers application/json.", rest=twin)
