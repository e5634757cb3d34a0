"""Bytes to messages, in whatever pieces they arrive.

This is "interpreting an event stream" of
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation,
with one bound added: an event larger than ``max_event_bytes`` is an error, not a full memory.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from headwater.errors import EventTooLargeError, PeerError, UsageError
from headwater.protocol._events import MAX_RETRY

# A snapshot of 100 items of 64 KB fits; a peer that never ends its line is noticed soon.
MAX_EVENT_BYTES = 8 * 1024 * 1024

# A comment is kept for people to read, so its start is enough.
_MAX_COMMENT = 200

_BOM = b"\xef\xbb\xbf"
_END_OF_LINE = re.compile(rb"\r\n|\r|\n")
_DIGITS = re.compile(rb"[0-9]+")


@dataclass(frozen=True, slots=True)
class Message:
    """One event as a client dispatches it.

    Attributes:
        event: its type, ``message`` unless the event named one.
        data: its text, with LF between lines.
        last_event_id: the position after this event: its own id or, if it has none, the last one
            before it. Empty when there was none.
    """

    event: str
    data: str
    last_event_id: str

    def json(self) -> Any:
        """The data, read as JSON. Raises PeerError when it is not JSON."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError) as error:
            raise PeerError(
                f"the data of a {self.event[:80]!r} event is not JSON: {error}"
            ) from None


class Decoder:
    """An event stream's decoder for one connection.

    ``last_event_id`` is where the connection before this one ended: "last event ID" outlives a
    reconnect, and an event without an id of its own must not lose it.

    Attributes:
        last_event_id: the position to send as ``Last-Event-ID`` after a disconnect.
        retry: the last ``retry`` of the stream in milliseconds, None when there was none. Values
            over ``MAX_RETRY`` count as ``MAX_RETRY``.
    """

    def __init__(self, *, last_event_id: str = "", max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        if max_event_bytes < 1:
            raise UsageError(f"max_event_bytes={max_event_bytes}: at least 1 is needed")
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._max = max_event_bytes
        self._head: bytes | None = b""  # the stream's first bytes, until a BOM is found or not
        self._after_cr = False
        # Growing byte arrays: appending costs what is appended, however small the chunks are, and
        # a million empty `data` lines cost a million bytes.
        self._line = bytearray()
        self._data = bytearray()
        self._event = ""
        self._id = last_event_id
        self._comment = b""
        self._failure: EventTooLargeError | None = None

    @property
    def comment(self) -> str:
        """The start of the last comment, in which a server may say why it ends the stream."""
        return _text(self._comment).strip()

    def feed(self, chunk: bytes) -> list[Message]:
        """Take the next bytes and return the messages that they complete.

        Raises EventTooLargeError once an event is over the bound. Messages that came before it in
        the same chunk are returned first; then the next call raises, so that what comes out does
        not depend on how the bytes were cut. ``feed(b"")`` asks for it at once.
        """
        if self._failure is not None:
            raise self._failure
        if self._head is not None:
            chunk = self._without_bom(self._head + chunk)
        messages: list[Message] = []
        if not chunk:
            return messages
        # "Lines must be separated by either a U+000D CARRIAGE RETURN U+000A LINE FEED (CRLF)
        # character pair, a single LF, or a single CR": a CR ends the line at once, so that its
        # event is not held up; a LF that starts the next chunk then belongs to it.
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = chunk.endswith(b"\r")
        for end in _END_OF_LINE.finditer(chunk, start):
            if not self._extend(chunk[start : end.start()]):
                return self._give_up(messages)
            self._take_line(bytes(self._line), messages)
            self._line.clear()
            start = end.end()
        # "Once the end of the file is reached, any pending data must be discarded": what stays here
        # goes with the decoder.
        if not self._extend(chunk[start:]):
            return self._give_up(messages)
        return messages

    def _without_bom(self, head: bytes) -> bytes:
        # "The UTF-8 decode algorithm strips one leading UTF-8 Byte Order Mark (BOM), if any."
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _extend(self, piece: bytes) -> bool:
        if len(self._data) + len(self._line) + len(piece) > self._max:
            return False
        self._line += piece
        return True

    def _give_up(self, messages: list[Message]) -> list[Message]:
        self._failure = EventTooLargeError(self._max)
        self._line.clear()
        self._data.clear()
        if not messages:
            raise self._failure
        return messages

    def _take_line(self, line: bytes, messages: list[Message]) -> None:
        if not line:
            self._dispatch(messages)
            return
        # "If the line starts with a U+003A COLON character: ignore the line."
        if line.startswith(b":"):
            self._comment = line[1:_MAX_COMMENT]
            return
        # The field is what stands before the first colon, or the whole line with an empty value.
        field, _, value = line.partition(b":")
        # "If value starts with a U+0020 SPACE character, remove it from value": one, not all.
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data += value
            self._data += b"\n"
        elif field == b"event":
            self._event = _text(value)
        elif field == b"id":
            if b"\0" not in value:
                self._id = _text(value)
        elif field == b"retry" and _DIGITS.fullmatch(value):
            # Python refuses to read numbers of thousands of digits; none of them fits a timer.
            digits = value.lstrip(b"0") or b"0"
            self.retry = MAX_RETRY if len(digits) > 10 else min(int(digits), MAX_RETRY)
        # "Otherwise: the field is ignored."

    def _dispatch(self, messages: list[Message]) -> None:
        # "Set the last event ID string of the event source to the value of the last event ID
        # buffer. The buffer does not get reset": also for a block without data.
        self.last_event_id = self._id
        if self._data:
            # "If the data buffer's last character is a U+000A LINE FEED, remove it."
            text = _text(self._data[:-1])
            messages.append(Message(self._event or "message", text, self._id))
            self._data.clear()
        self._event = ""


def _text(line: bytes | bytearray) -> str:
    # "Streams must be decoded using the UTF-8 decode algorithm", which puts U+FFFD for what is not
    # UTF-8. CR and LF never occur inside a sequence, so decoding line by line gives the same.
    return line.decode("utf-8", "replace")


def decode_last_event_id(raw: bytes) -> str | None:
    """The position in a ``Last-Event-ID`` header's raw value; None when it is empty.

    "UTF-8 encode the last event ID string": the header is UTF-8, although HTTP frameworks show
    header values as latin-1. What is not UTF-8 becomes U+FFFD, which no position holds: it is then
    an unknown position rather than none.
    """
    return raw.decode("utf-8", "replace") or None
