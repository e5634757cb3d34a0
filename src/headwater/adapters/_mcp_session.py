"""One MCP session in an event store: its numbered events, and the ids that name them."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mcp.server.streamable_http import EventCallback

from headwater.eventlog import START, Offset

# Characters of a message in one record, and bytes of JSON for one, at most.
_PIECE, _WIDEST = 200_000, 4
# Bytes of a record beside its piece.
_ENVELOPE = 4096

# What a session may hold in memory while the log is away.
_MAX_PENDING_EVENTS = 1_000
_MAX_PENDING_CHARACTERS = 4_000_000

_ID = re.compile(r"([0-9a-f]{32})\.([0-9]{1,15})\.([0-9-]{1,41})\.((?:[0-9a-f]{2})*)")


@dataclass(slots=True)
class Event:
    """One message of a stream.

    Attributes:
        text: None for a priming event, which only marks a place to resume at.
        stored: its offset in the log; None while it is pending.
    """

    number: int
    stream: str
    text: str | None
    stored: Offset | None = None

    def records(self, max_bytes: int) -> Iterator[dict[str, Any]]:
        """Its records, each of which has at most so many bytes of JSON."""
        piece = max(1, min(_PIECE, (max_bytes - _ENVELOPE) // _WIDEST))
        record = {"n": self.number, "stream": self.stream}
        if self.text is None:
            yield record
            return
        pieces = range(0, len(self.text), piece)
        for index, begin in enumerate(pieces):
            left = {"left": len(pieces) - 1 - index} if len(pieces) > 1 else {}
            yield record | left | {"text": self.text[begin : begin + piece]}


@dataclass(slots=True)
class Cursor:
    """A place in a session: the client has all events up to ``number``. An event's id encodes it.

    Attributes:
        number: the event's number in its session: 1, 2, 3 …
        stored: an offset in the session's topic. All later events are stored after it.
    """

    number: int
    stored: Offset
    stream: str


@dataclass(slots=True, eq=False)
class Session:
    """One session's events.

    Attributes:
        name: random; every event id begins with it.
        count: the number of the latest event.
        stored: the offset of the latest event in the log.
        pending: the events that are not in the log yet.
        resumed: streams between their replay, which ended at a cursor, and their priming event.
        resumed_at: when the latest resumed stream got its priming event, by the loop's clock; None
            if the next message need not wait for it.
        untrimmed: records that were appended since the topic was trimmed.
        announced: when the log was last notified of this session, by the loop's clock.
    """

    topic: str
    name: str
    count: int = 0
    stored: Offset = START
    pending: deque[Event] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    resumed: dict[str, tuple[Cursor, EventCallback]] = field(default_factory=dict)
    resumed_at: float | None = None
    untrimmed: int = 0
    announced: float | None = None

    def id_of(self, cursor: Cursor) -> str:
        # A stream's id is the client's request id, which may have any character.
        stream = cursor.stream.encode().hex()
        return f"{self.name}.{cursor.number}.{cursor.stored}.{stream}"

    def cursor_of(self, event_id: str) -> Cursor | None:
        """The cursor of an id. None if the id is of another session, or was never given out."""
        match = _ID.fullmatch(event_id)
        if match is None or match[1] != self.name or int(match[2]) > self.count:
            return None
        try:
            stream = bytes.fromhex(match[4]).decode()
            return Cursor(int(match[2]), Offset.parse(match[3]), stream)
        except ValueError:
            return None

    def bound(self) -> None:
        """Drop the oldest pending events over the bound. A client that needs them gets an error."""
        size = sum(len(event.text or "") for event in self.pending)
        while self.pending and (
            len(self.pending) > _MAX_PENDING_EVENTS or size > _MAX_PENDING_CHARACTERS
        ):
            size -= len(self.pending.popleft().text or "")
