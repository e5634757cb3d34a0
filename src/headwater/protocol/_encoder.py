"""Values to bytes, as https://html.spec.whatwg.org/multipage/server-sent-events.html reads them.

The default serializer takes pydantic models without importing pydantic: the core needs nothing.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from headwater.errors import EncodingError, FramingError
from headwater.protocol._events import Comment, Event, check_event, check_id

# "Authors can include a comment line (one starting with a ':' character) every 15 seconds or so":
# the standard's own way to keep proxies from closing a quiet connection.
HEARTBEAT = b": heartbeat\n\n"

# "end-of-line = ( cr lf / cr / lf )". Python's own splitlines() also splits on U+2028 and others,
# which are ordinary characters here.
_END_OF_LINE = re.compile(r"\r\n|\r|\n")


def to_json(value: Any) -> str:
    """Compact JSON (RFC 8259) without line breaks; text beyond ASCII stays as it is.

    Takes what ``json`` takes, and pydantic models, dataclasses, dates and times (ISO 8601, UTC as
    ``Z``), UUIDs, enums (their value), decimals (a string, so that no digit is lost), paths, sets
    (sorted, so that equal sets give equal text), other mappings and sequences, and UTF-8 bytes.

    Raises EncodingError for anything else, for circular references, and for NaN and infinity, which
    JSON does not have.
    """
    try:
        return _ENCODER.encode(value)
    except EncodingError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        # pydantic's own serialization errors are ValueErrors.
        raise EncodingError(f"{type(value).__name__} is not JSON: {error}") from error


def _plain(value: Any) -> Any:
    """What ``json`` can write in the place of ``value``."""
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if serializer is not None:
        # By alias, because that is what the same object gives as a FastAPI response.
        return serializer.to_python(value, mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (datetime, time)):
        # pydantic's form, so that a feed shows one time in one way.
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal, PurePath)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(value, key=to_json)
    if isinstance(value, Sequence):
        return list(value)
    raise EncodingError(f"{type(value).__name__} is not JSON")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
)


def encode(value: Event | Comment, serializer: Callable[[Any], str] = to_json) -> bytes:
    """The block of lines for ``value``, with the blank line that ends it.

    ``serializer`` turns data that is not text into text. Raises FramingError when that text holds
    a lone surrogate, EncodingError when it is not a str, and what the serializer raises.
    """
    if isinstance(value, Comment):
        # A space after the colon, so that a comment's first character cannot be mistaken.
        return "".join(f": {line}\n" for line in _lines(value.text)).encode() + b"\n"
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
        parts.append(_data_lines(value.data, serializer))
    return _block("".join(parts), value.data)


def encode_data(data: Any, serializer: Callable[[Any], str] = to_json) -> bytes:
    """The block for an event that has nothing but data. Raises the same errors as ``encode``."""
    if isinstance(data, (str, bytes, bytearray, memoryview)):
        return encode(Event(data), serializer)
    return _block(_data_lines(data, serializer), data)


def _data_lines(data: Any, serializer: Callable[[Any], str]) -> str:
    text = data if isinstance(data, str) else serializer(data)
    if not isinstance(text, str):
        raise EncodingError(f"the serializer returned {type(text).__name__}, not str")
    # "Append the field value to the data buffer, then append a single U+000A LINE FEED": one
    # `data` line for each line of the text.
    return "".join([f"data: {line}\n" for line in _lines(text)])


def _lines(text: str) -> list[str]:
    if "\n" not in text and "\r" not in text:
        return [text]
    return _END_OF_LINE.split(text)


def _block(lines: str, data: Any) -> bytes:
    try:
        return f"{lines}\n".encode()
    except UnicodeEncodeError:
        # Strings were checked when the event was made, so this came out of the serializer.
        raise FramingError("data", data, "its serialized text holds a lone surrogate") from None


def frame(event: str | None, id: str | None, data: bytes) -> bytes:
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
