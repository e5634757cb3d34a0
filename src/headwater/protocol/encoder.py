"""Values to bytes, as https://html.spec.whatwg.org/multipage/server-sent-events.html reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headwater.errors import EncodingError, FramingError
from headwater.protocol.events import Comment, Event, check_event, check_id, split_lines
from headwater.protocol.serializer import to_json

__all__ = ["HEARTBEAT", "encode", "frame"]

# "Authors can include a comment line (one starting with a ':' character) every 15 seconds or so":
# the standard's own way to keep proxies from closing a quiet connection.
HEARTBEAT = b": heartbeat\n\n"


def encode(value: Event | Comment, serializer: Callable[[Any], str] = to_json) -> bytes:
    """The block of lines for ``value``, with the blank line that ends it.

    ``serializer`` turns data that is not text into text. Raises FramingError when that text holds
    a lone surrogate, EncodingError when it is not a str, and what the serializer raises.
    """
    if isinstance(value, Comment):
        # A space after the colon, so that a comment's first character cannot be mistaken.
        return "".join(f": {line}\n" for line in split_lines(value.text)).encode() + b"\n"
    # "If value starts with a U+0020 SPACE character, remove it": with a space always there, a
    # value that starts with one of its own keeps it.
    parts: list[str] = []
    if value.event is not None:
        parts.append(f"event: {value.event}\n")
    if value.id is not None:
        parts.append(f"id: {value.id}\n")
    if value.retry is not None:
        parts.append(f"retry: {value.retry:d}\n")
    if value.data is not None:
        # "Append the field value to the data buffer, then append a single U+000A LINE FEED":
        # one `data` line for each line of the text.
        parts.extend(f"data: {line}\n" for line in split_lines(_text(value.data, serializer)))
    parts.append("\n")
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError:
        # Strings were checked when the event was made, so this came out of the serializer.
        raise FramingError(
            "data", value.data, "its serialized text holds a lone surrogate"
        ) from None


def _text(data: Any, serializer: Callable[[Any], str]) -> str:
    if isinstance(data, str):
        return data
    text = serializer(data)
    if not isinstance(text, str):
        raise EncodingError(f"the serializer returned {type(text).__name__}, not str")
    return text


def frame(event: str | None, id: str | None, data: bytes) -> bytes:  # noqa: A002 - as in the standard
    """The block for data that is one line of UTF-8 already, such as encoded JSON.

    The data is not decoded again. Raises FramingError when it holds CR or LF, or when ``event`` or
    ``id`` could not be framed.
    """
    if b"\n" in data or b"\r" in data:
        raise FramingError("data", data, "it must be one line")
    head = ""
    if event is not None:
        check_event(event)
        head = f"event: {event}\n"
    if id is not None:
        check_id(id)
        head += f"id: {id}\n"
    return b"%bdata: %b\n\n" % (head.encode(), data)
