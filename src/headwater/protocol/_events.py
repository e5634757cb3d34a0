"""The values that an event stream carries. They are checked when they are made.

A value that cannot be framed is refused, never repaired. With a line feed in an ``id``
an attacker could write further lines, and so further events, into the streams of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from headwater.errors import FramingError

# Browsers hand `retry` to a timer that counts milliseconds in a signed 32-bit number. A larger one
# wraps around and fires at once, which is the opposite of what the server asked for.
MAX_RETRY = 2**31 - 1


def _check_unicode(field: str, text: str) -> None:
    # "Streams must be encoded in UTF-8", and a lone surrogate has no encoding in it.
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FramingError(field, text, "a lone surrogate cannot be encoded as UTF-8") from None


def check_event(name: str) -> None:
    """Refuse an event name that cannot be framed. Raises FramingError."""
    if not isinstance(name, str):
        raise FramingError("event", name, "the name of an event is a str")
    if not name:
        # "If the event type buffer has a value other than the empty string, change the type":
        # an empty name would arrive as "message".
        raise FramingError("event", name, "the name is empty; None leaves it out")
    if "\n" in name or "\r" in name:
        raise FramingError("event", name, "CR and LF would end the line")
    _check_unicode("event", name)


def check_id(id: str) -> None:
    """Refuse an id that cannot be framed. Raises FramingError."""
    if not isinstance(id, str):
        raise FramingError("id", id, "an id is a str or an int")
    if "\n" in id or "\r" in id:
        raise FramingError("id", id, "CR and LF would end the line")
    if "\0" in id:
        # "If the field value does not contain U+0000 NULL, then set the last event ID buffer to
        # the field value. Otherwise, ignore the field": clients would keep an older position.
        raise FramingError("id", id, "clients ignore an id that holds NUL")
    _check_unicode("id", id)


def _check_retry(retry: int) -> None:
    # "If the field value consists of only ASCII digits, then interpret it as an integer in base
    # ten". True would be sent as "True", which clients ignore.
    if not isinstance(retry, int) or isinstance(retry, bool):
        raise FramingError("retry", retry, "a whole number of milliseconds is needed")
    if not 0 <= retry <= MAX_RETRY:
        raise FramingError("retry", retry, f"0 to {MAX_RETRY} milliseconds are possible")


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """One event. Only what is given is sent; ``id=0``, ``retry=0`` and ``data=""`` are given.

    Attributes:
        data: text, or any object for the serializer. ``bytes`` are taken as UTF-8 text. None sends
            no ``data``: the client then dispatches nothing, but takes over ``id`` and ``retry``.
        event: the type; clients call one without it ``message``.
        id: the position that the client gives back as ``Last-Event-ID``. An int becomes its
            decimal text. ``""`` makes a client forget its position.
        retry: milliseconds that the client waits before it reconnects.

    Text survives but for its line ends: the format has lines, not characters, so CR LF and CR
    arrive as LF. JSON escapes both and survives byte for byte.

    Raises FramingError for a value that would break the framing, or an event with nothing in it.
    """

    data: Any
    event: str | None
    id: str | None
    retry: int | None

    def __init__(
        self,
        data: Any = None,
        event: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
    ) -> None:
        if isinstance(data, (bytes, bytearray, memoryview)):
            try:
                data = bytes(data).decode()
            except UnicodeDecodeError:
                raise FramingError("data", data, "bytes must be UTF-8 text") from None
        elif isinstance(data, str):
            _check_unicode("data", data)
        if event is not None:
            check_event(event)
        position: Any = id
        if isinstance(id, int) and not isinstance(id, bool):
            position = str(int(id))  # int() because an IntEnum may print its name
        if position is not None:
            check_id(position)
        if retry is not None:
            _check_retry(retry)
        if data is None and id is None and retry is None:
            raise FramingError("data", data, "an event without data, id and retry says nothing")
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "event", event)
        object.__setattr__(self, "id", position)
        object.__setattr__(self, "retry", retry)


@dataclass(frozen=True, slots=True)
class Comment:
    """A comment, which clients ignore. Proxies and time-outs see that the stream is alive.

    Text of several lines is sent as several comment lines. Raises FramingError for a lone
    surrogate.
    """

    text: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise FramingError("comment", self.text, "a comment is a str")
        _check_unicode("comment", self.text)
