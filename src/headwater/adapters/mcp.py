"""An event store for servers of the official MCP SDK, on any event log.

A client whose connection is cut asks for the messages after the last one that it had. The SDK
keeps messages in memory only, without a bound. ``EventStore`` keeps them in an event log.

The SDK gives one store to all sessions, and its stream ids repeat in every session: "1", "2",
"_GET_stream". It does not say which session calls. A store that trusts stream ids sends the
messages of one user to another. This store looks at its caller: the session is the
``StreamableHTTPServerTransport`` whose method awaits it. Calls from elsewhere share a session of
the instance. A wrapper around the store must await it in the task that called the wrapper; one
that cannot takes an ``EventStore`` for each session.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from headwater.errors import MissingExtraError, SourceUnavailableError, UsageError
from headwater.eventlog import START, EventLog, Offset

try:
    from mcp.server.streamable_http import GET_STREAM_KEY, EventCallback, EventMessage
    from mcp.server.streamable_http import EventStore as SdkEventStore
    from mcp.server.streamable_http import StreamableHTTPServerTransport as Transport
    from mcp.types import (
        INTERNAL_ERROR,
        ErrorData,
        JSONRPCError,
        JSONRPCMessage,
        jsonrpc_message_adapter,
    )
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtraError("mcp", "mcp") from error

__all__ = ["EventStore"]

_log = logging.getLogger(__name__)

# Characters of a message in one record: below an event's 1 MiB, whatever they are in UTF-8.
_PIECE = 200_000

# What a session may hold in memory while the log is away.
_MAX_PENDING_EVENTS = 1_000
_MAX_PENDING_CHARACTERS = 4_000_000

# How long the log is left alone after a failure.
_PAUSE = 1.0

# The SDK registers a resumed stream just after its priming event. A message that is stored in
# between would be sent to nobody, so a session's next message waits this long.
_RESUMING = 0.05

# Streams that are being resumed at the same moment in one session.
_MAX_RESUMED = 100

_ID = re.compile(r"([0-9a-f]{32})\.([0-9]{1,15})\.([0-9-]{1,41})\.((?:[0-9a-f]{2})*)")


@dataclass(slots=True)
class _Event:
    """One message of a stream.

    Attributes:
        text: None for a priming event, which is only a place.
        stored: its offset in the log; None while it is pending.
    """

    number: int
    stream: str
    text: str | None
    stored: Offset | None = None

    def records(self) -> Iterator[dict[str, Any]]:
        record = {"n": self.number, "stream": self.stream}
        if self.text is None:
            yield record
            return
        pieces = range(0, len(self.text), _PIECE)
        for index, begin in enumerate(pieces):
            left = {"left": len(pieces) - 1 - index} if len(pieces) > 1 else {}
            yield record | left | {"text": self.text[begin : begin + _PIECE]}


@dataclass(slots=True)
class _Cursor:
    """What an event's id says: all events up to ``number`` were received.

    Attributes:
        number: of the event in its session; no number is left out.
        stored: an offset in the session's topic at which no later event is stored.
    """

    number: int
    stored: Offset
    stream: str


@dataclass(slots=True)
class _Resumed:
    """A stream whose replay ended, and which the SDK has not registered yet."""

    cursor: _Cursor
    send: EventCallback


@dataclass(slots=True, eq=False)
class _Session:
    """One session's events.

    Attributes:
        name: random; every event id begins with it.
        count: the number of the latest event.
        stored: the offset of the latest event in the log.
        pending: the events that are not in the log yet.
        resumed: streams between their replay and their priming event.
        resumed_at: when the latest was primed, by the loop's clock; None: long ago.
    """

    topic: str
    name: str
    count: int = 0
    stored: Offset = START
    pending: deque[_Event] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    resumed: dict[str, _Resumed] = field(default_factory=dict)
    resumed_at: float | None = None
    untrimmed: int = 0

    def id_of(self, cursor: _Cursor) -> str:
        # A stream's id is the client's request id, in which any character may be.
        stream = cursor.stream.encode().hex()
        return f"{self.name}.{cursor.number}.{cursor.stored}.{stream}"

    def cursor_of(self, event_id: str) -> _Cursor | None:
        """None for an id of another session, and for one that this session never gave out."""
        match = _ID.fullmatch(event_id)
        if match is None or match[1] != self.name or int(match[2]) > self.count:
            return None
        try:
            stream = bytes.fromhex(match[4]).decode()
            return _Cursor(int(match[2]), Offset.parse(match[3]), stream)
        except ValueError:
            return None


class EventStore(SdkEventStore):
    """Keeps the messages of MCP sessions in an event log, so that cut clients lose none.

    A message that the log cannot take now is kept in memory, and stored with the next one: the
    session goes on while the log is away. A client whose next message is not kept any more gets
    an error for its request. An id of another session is answered with nothing.

    Args:
        log: any engine.
        topic: each session's topic has a name that begins with this.
        max_events: how many messages a session keeps, at least 100.
        timeout: seconds that one message waits for the log.
    """

    def __init__(
        self, log: EventLog, *, topic: str = "mcp", max_events: int = 1_000, timeout: float = 5.0
    ) -> None:
        if max_events < 100:
            raise UsageError(f"max_events={max_events}: a session keeps at least 100")
        if not timeout > 0:
            raise UsageError(f"timeout={timeout}: it must be above 0 s")
        self._log = log
        self._prefix = topic
        self._max_events = max_events
        self._timeout = timeout
        self._away_until = 0.0
        self._sessions: WeakKeyDictionary[Transport, _Session] = WeakKeyDictionary()
        self._own = self._new_session()

    def _new_session(self) -> _Session:
        name = secrets.token_hex(16)
        return _Session(f"{self._prefix}:{name}", name)

    def _session(self) -> _Session:
        """The session of the transport that awaits this store."""
        transport = _calling_transport()
        if transport is None:
            return self._own
        session = self._sessions.get(transport)
        if session is None:
            session = self._sessions[transport] = self._new_session()
        return session

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep a message, or None for a place to resume at, and return its id."""
        session = self._session()
        session.count += 1
        # As the SDK writes it to the wire, so that a replay is equal byte for byte.
        text = (
            None if message is None else message.model_dump_json(by_alias=True, exclude_unset=True)
        )
        event = _Event(session.count, stream_id, text)
        session.pending.append(event)
        await self._flush(session)
        if message is None and (resumed := session.resumed.pop(stream_id, None)) is not None:
            # The SDK stores this priming event between the replay and the live messages.
            await self._replay(session, resumed.cursor, resumed.send)
            session.resumed_at = asyncio.get_running_loop().time()
            return session.id_of(resumed.cursor)
        if message is not None and session.resumed_at is not None:
            since = asyncio.get_running_loop().time() - session.resumed_at
            session.resumed_at = None
            await asyncio.sleep(max(0.0, _RESUMING - since))
        return session.id_of(_Cursor(event.number, event.stored or session.stored, stream_id))

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """Send the later messages of the id's stream, and return the stream; None if unknown."""
        session = self._session()
        cursor = session.cursor_of(last_event_id)
        if cursor is None:
            return None
        try:
            await self._replay(session, cursor, send_callback)
        except (TimeoutError, SourceUnavailableError) as error:
            _log.warning("an MCP stream was not resumed, its client will try again: %s", error)
            return None
        session.resumed[cursor.stream] = _Resumed(cursor, send_callback)
        while len(session.resumed) > _MAX_RESUMED:
            del session.resumed[next(iter(session.resumed))]
        return cursor.stream

    async def _replay(self, session: _Session, cursor: _Cursor, send: EventCallback) -> None:
        """Send what is after the cursor, and move it, until nothing new comes."""
        while cursor.number < session.count:
            await self._flush(session)
            upto, pending = session.count, list(session.pending)
            before = cursor.number
            async for event in self._stored(session, cursor):
                await self._send(session, cursor, event, send)
            for event in pending:
                if event.number == cursor.number + 1:
                    await self._send(session, cursor, event, send)
            if cursor.number == before < upto:
                await self._report_loss(cursor, send)
                cursor.number = min(upto, await self._first_kept(session, cursor) - 1)

    async def _stored(self, session: _Session, cursor: _Cursor) -> AsyncIterator[_Event]:
        """The events in the log that follow the cursor without a gap."""
        expected, text = cursor.number + 1, ""
        after = cursor.stored
        while True:
            async with asyncio.timeout(self._timeout):
                run = await self._log.read(session.topic, after, 100)
            for record in run.records:
                number = record.data["n"]
                if number > expected:
                    return
                if number == expected:
                    text += record.data.get("text", "")
                    if not record.data.get("left"):
                        whole = text if "text" in record.data else None
                        expected, text = expected + 1, ""
                        cursor.stored = record.offset
                        yield _Event(number, record.data["stream"], whole)
                after = record.offset
            if len(run.records) < 100:
                return

    async def _send(
        self, session: _Session, cursor: _Cursor, event: _Event, send: EventCallback
    ) -> None:
        cursor.number = event.number
        if event.text is not None and event.stream == cursor.stream:
            message = jsonrpc_message_adapter.validate_json(event.text, by_name=False)
            await send(EventMessage(message, session.id_of(cursor)))

    async def _first_kept(self, session: _Session, cursor: _Cursor) -> int:
        """The number of the first event after the cursor that is kept."""
        async with asyncio.timeout(self._timeout):
            run = await self._log.read(session.topic, cursor.stored, 1)
        if run.records:
            return max(int(run.records[0].data["n"]), cursor.number + 2)
        return session.pending[0].number if session.pending else session.count + 1

    async def _report_loss(self, cursor: _Cursor, send: EventCallback) -> None:
        """Answer a request with an error, since some of its messages are not kept any more."""
        _log.warning("messages of an MCP stream are not kept any more: a client was away too long")
        if cursor.stream != GET_STREAM_KEY:
            data = ErrorData(code=INTERNAL_ERROR, message="messages were lost; ask again")
            await send(EventMessage(JSONRPCError(jsonrpc="2.0", id=cursor.stream, error=data)))

    async def _flush(self, session: _Session) -> None:
        """Move the pending events into the log, if it answers in time. Never raises for it."""
        now = asyncio.get_running_loop().time
        if now() < self._away_until:
            _bound(session.pending)
            return
        try:
            async with asyncio.timeout(self._timeout), session.lock:
                await self._append(session)
        except (TimeoutError, SourceUnavailableError) as error:
            self._away_until = now() + _PAUSE
            _log.warning("messages of MCP sessions wait in memory for the event log: %s", error)
        _bound(session.pending)

    async def _append(self, session: _Session) -> None:
        while session.pending:
            batch: list[dict[str, Any]] = []
            last: list[tuple[_Event, int]] = []
            for event in session.pending:
                records = list(event.records())
                if batch and len(batch) + len(records) > self._log.capabilities.max_batch:
                    break
                batch += records
                last.append((event, len(batch) - 1))
            try:
                stored = await self._log.append(session.topic, batch)
            except UsageError as error:  # the log can never take it
                _log.warning("messages of an MCP session are not stored: %s", error)
            else:
                session.stored = stored[-1].offset
                for event, index in last:
                    event.stored = stored[index].offset
                session.untrimmed += len(batch)
            # More events may be pending by now, and the bound may have dropped some of these.
            while session.pending and session.pending[0].number <= last[-1][0].number:
                session.pending.popleft()
        if session.untrimmed > self._max_events // 10:
            session.untrimmed = 0
            await self._log.trim(session.topic, max_count=self._max_events)


def _bound(pending: deque[_Event]) -> None:
    """Drop the oldest events over the bound: a client that needs them is told."""
    size = sum(len(event.text or "") for event in pending)
    while len(pending) > _MAX_PENDING_EVENTS or (size > _MAX_PENDING_CHARACTERS and pending):
        size -= len(pending.popleft().text or "")


def _calling_transport() -> Transport | None:
    """The transport among the callers whose method awaits the store, or None."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Transport):
            return caller
        frame = frame.f_back
    return None
