"""The paging parameters that every feed has: read, checked and described once for all feeds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from headwater.feeds._feed import MAX_LIMIT

# Seconds of a long-poll: below the idle time-outs of common proxies.
MAX_WAIT = 60

NAMES = ("limit", "after", "before", "wait", "heartbeat")

# What a stream's heartbeats can be: browsers hide comments from scripts.
_HEARTBEATS = ("comment", "event")

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{0,9})?")


@dataclass(frozen=True, slots=True)
class Paging:
    """What a request asks of a feed, beside the feed's own parameters.

    Attributes:
        limit: items of a page.
        after, before: positions as they came, or None.
        wait: seconds of a long-poll.
        events: heartbeats are to be events instead of comments.
        errors: what is wrong, in pydantic's form; empty when all is right.
    """

    limit: int
    after: str | None
    before: str | None
    wait: float
    errors: list[dict[str, Any]]
    events: bool = False


def read_paging(query_string: bytes, limit: int, *, stream: bool) -> Paging:
    """Read the paging parameters of a request.

    Arguments:
        query_string: as ASGI has it. The last of several values of a name counts.
        limit: the feed's default.
        stream: the request is for the stream, which has no ``wait``.
    """
    query = dict(parse_qsl(query_string.decode("latin-1"), keep_blank_values=True))
    errors: list[dict[str, Any]] = []
    wait = 0.0
    text = query.get("limit")
    if text is not None:
        if _WHOLE.fullmatch(text) and 1 <= int(text) <= MAX_LIMIT:
            limit = int(text)
        else:
            errors.append(_error("limit", text, f"must be a whole number from 1 to {MAX_LIMIT}"))
    after, before = query.get("after"), query.get("before")
    if after is not None and before is not None and not stream:
        errors.append(_error("before", before, "goes without `after`: send one of the two"))
    text = None if stream else query.get("wait")
    if text is not None:
        if _NUMBER.fullmatch(text) and 0 <= float(text) <= MAX_WAIT:
            wait = float(text)
        else:
            errors.append(_error("wait", text, f"must be seconds from 0 to {MAX_WAIT}"))
    heartbeat = query.get("heartbeat", "comment") if stream else "comment"
    if heartbeat not in _HEARTBEATS:
        errors.append(_error("heartbeat", heartbeat, "must be `event` or `comment`"))
    return Paging(limit, after, before, wait, errors, heartbeat == "event")


def _error(name: str, value: str, sentence: str) -> dict[str, Any]:
    return {"type": "value_error", "loc": ("query", name), "msg": sentence, "input": value}


def described(limit: int, *, stream: bool) -> list[dict[str, Any]]:
    """The parameters as OpenAPI has them."""
    page = "the snapshot" if stream else "a page"
    if stream:
        said = "What heartbeats are: comments, or events that a page can see."
        own = _parameter(
            "heartbeat", said, type="string", enum=list(_HEARTBEATS), default=_HEARTBEATS[0]
        )
    else:
        said = "Seconds to wait for an item when there is none yet (long-poll)."
        own = _parameter("wait", said, type="number", minimum=0, maximum=MAX_WAIT, default=0)
    said = f"Items of {page}, 1 to {MAX_LIMIT}."
    return [
        _parameter("limit", said, type="integer", minimum=1, maximum=MAX_LIMIT, default=limit),
        _parameter("after", "A position: only the items after it.", type="string"),
        _parameter("before", "A page's `start`: the page that ends before it.", type="string"),
        own,
    ]


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": description,
        "schema": {"title": name.title(), **schema},
    }
