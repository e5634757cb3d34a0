"""An event store for servers of the official MCP SDK, on any event log.

After a lost connection, a client asks for the messages after the last one that it has. The SDK
can send them if it has an event store, but it has none for production. ``EventStore`` keeps them in
an event log.

The SDK gives one store to all sessions, and each session uses the same stream ids: "1", "2",
"_GET_stream". The SDK does not name the session in a call. A store that trusts stream ids sends the
messages of one user to another. So ``SessionScope``, an ASGI middleware, gives this store the
session of each request. Without it, the session is the ``StreamableHTTPServerTransport`` whose
method awaits the store. Calls from elsewhere share one session of the store; once two MCP sessions
share it, nothing is resumed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from headwater.errors import MissingExtraError, SourceUnavailableError, UsageError
from headwater.eventlog import START, EventLog, Offset
from headwater.eventlog._record import past
from headwater.feeds._clock import utc_now

try:
    from mcp.server.streamable_http import GET_STREAM_KEY, EventCallback, EventMessage
    from mcp.server.streamable_http import EventStore as SdkEventStore
    from mcp.types import (
        INTERNAL_ERROR,
        ErrorData,
        JSONRPCError,
        JSONRPCMessage,
        JSONRPCResponse,
        jsonrpc_message_adapter,
    )
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtraError("mcp", "mcp") from error

from headwater.adapters._mcp_scope import SessionScope, session_key
from headwater.adapters._mcp_session import Cursor, Event, Session

__all__ = ["EventStore", "SessionScope"]

_log = logging.getLogger(__name__)

# Seconds without a request to the log after a failure.
_PAUSE = 1.0

# The SDK registers a resumed stream just after its priming event. A message that is stored in
# between would be sent to nobody, so a session's next message waits this long, and so many turns of
# the event loop, which on a busy machine take longer.
_RESUMING, _TURNS = 0.05, 50

# How many streams of one session may be resumed at the same time.
_MAX_RESUMED = 100


class EventStore(SdkEventStore):
    """Keeps the messages of MCP sessions in an event log, so that cut clients lose none.

    While the log is away, messages are kept in memory and stored later, so the session goes on. If
    a client's next message is no longer kept, the client gets an error for its request. For an id
    of another session the store sends nothing.

    Arguments:
        log: an event log on any engine.
        topic: the beginning of the name of each session's topic.
        max_events: how many messages a session keeps, at least 100.
        keep: the shortest time for which messages are kept. A session is removed some time after
            its last message, also if its process has died.
        timeout: seconds that one message waits for the log, at most.

    Raises UsageError for a value out of range.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        topic: str = "mcp",
        max_events: int = 1_000,
        keep: timedelta = timedelta(hours=1),
        timeout: float = 5.0,
    ) -> None:
        if max_events < 100:
            raise UsageError(f"max_events={max_events}: a session keeps at least 100")
        if not keep > timedelta():
            raise UsageError(f"keep={keep}: it must be a time above 0")
        if not timeout > 0:
            raise UsageError(f"timeout={timeout}: it must be above 0 s")
        self._log = log
        self._prefix = topic
        self._max_events = max_events
        self._keep = keep
        self._timeout = timeout
        self._sweep_at = 0.0
        self._sweeping: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self._sessions: WeakKeyDictionary[object, Session] = WeakKeyDictionary()
        self._own = self._new_session()
        # How many MCP sessions have begun in it.
        self._begun = 0

    def _new_session(self) -> Session:
        name = secrets.token_hex(16)
        return Session(f"{self._prefix}:{name}", name)

    def _session(self) -> Session:
        """The session that calls."""
        key = session_key()
        if key is None:
            return self._own
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = self._new_session()
        return session

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep a message, or with None only a place to resume at. Returns its id."""
        session = self._session()
        if session is self._own and _begins_session(message):
            self._begun += 1
            if self._begun == 2:
                _log.error(
                    "an MCP event store cannot see which session calls it, so it resumes none: "
                    "call app.add_middleware(SessionScope)"
                )
        session.count += 1
        # As the SDK writes it to the wire, so that a replay is equal byte for byte.
        text = (
            None if message is None else message.model_dump_json(by_alias=True, exclude_unset=True)
        )
        event = Event(session.count, stream_id, text)
        session.pending.append(event)
        await self._flush(session)
        if message is None and (resumed := session.resumed.pop(stream_id, None)) is not None:
            # The SDK stores this priming event between the replay and the live messages.
            cursor, send = resumed
            await self._replay(session, cursor, send)
            session.resumed_at = asyncio.get_running_loop().time()
            return session.id_of(cursor)
        if message is not None and session.resumed_at is not None:
            since = asyncio.get_running_loop().time() - session.resumed_at
            session.resumed_at = None
            await asyncio.sleep(max(0.0, _RESUMING - since))
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        return session.id_of(Cursor(event.number, event.stored or session.stored, stream_id))

    async def replay_events_after(
        self, last_event_id: str, send_callback: EventCallback
    ) -> str | None:
        """Send the later messages of the id's stream. Returns the stream, or None if unknown."""
        session = self._session()
        cursor = session.cursor_of(last_event_id)
        if cursor is None or (session is self._own and self._begun > 1):
            return None
        try:
            await self._replay(session, cursor, send_callback)
        except (TimeoutError, SourceUnavailableError) as error:
            _log.warning("an MCP stream could not be resumed; its client may try again: %s", error)
            return None
        session.resumed[cursor.stream] = (cursor, send_callback)
        while len(session.resumed) > _MAX_RESUMED:
            del session.resumed[next(iter(session.resumed))]
        return cursor.stream

    async def _replay(self, session: Session, cursor: Cursor, send: EventCallback) -> None:
        """Send all events after the cursor, and move the cursor to the last one."""
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

    async def _stored(self, session: Session, cursor: Cursor) -> AsyncIterator[Event]:
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
                        yield Event(number, record.data["stream"], whole)
                after = record.offset
            if len(run.records) < 100:
                return

    async def _send(
        self, session: Session, cursor: Cursor, event: Event, send: EventCallback
    ) -> None:
        cursor.number = event.number
        if event.text is not None and event.stream == cursor.stream:
            message = jsonrpc_message_adapter.validate_json(event.text, by_name=False)
            await send(EventMessage(message, session.id_of(cursor)))

    async def _first_kept(self, session: Session, cursor: Cursor) -> int:
        """The number of the first event after the cursor that is still kept."""
        async with asyncio.timeout(self._timeout):
            run = await self._log.read(session.topic, cursor.stored, 1)
        if run.records:
            return max(int(run.records[0].data["n"]), cursor.number + 2)
        return session.pending[0].number if session.pending else session.count + 1

    async def _report_loss(self, cursor: Cursor, send: EventCallback) -> None:
        """Answer a request with an error, because some of its messages are no longer kept."""
        _log.warning("an MCP client was away too long: messages of its stream are no longer kept")
        if cursor.stream != GET_STREAM_KEY:
            data = ErrorData(
                code=INTERNAL_ERROR,
                message="some messages of this request are no longer kept; send it again",
            )
            await send(EventMessage(JSONRPCError(jsonrpc="2.0", id=cursor.stream, error=data)))

    async def _flush(self, session: Session) -> None:
        """Move the pending events into the log if it answers in time. Raises nothing if not."""
        now = asyncio.get_running_loop().time
        if now() < self._away_until:
            session.bound()
            return
        try:
            async with asyncio.timeout(self._timeout), session.lock:
                await self._append(session)
                await self._announce(session)
        except (TimeoutError, SourceUnavailableError) as error:
            self._away_until = now() + _PAUSE
            _log.warning("messages of MCP sessions wait in memory for the event log: %s", error)
        session.bound()

    async def _append(self, session: Session) -> None:
        while session.pending:
            batch: list[dict[str, Any]] = []
            last: list[tuple[Event, int]] = []
            for event in session.pending:
                records = list(event.records(self._log.max_event_bytes))
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

    async def _announce(self, session: Session) -> None:
        """Note in the log that the session exists, so that any process can remove it later."""
        now = asyncio.get_running_loop().time()
        keep = self._keep.total_seconds()
        if session.announced is None or now > session.announced + keep / 2:
            await self._log.append(self._prefix, {"session": session.name})
            session.announced = now
        if now > self._sweep_at:
            self._sweep_at = now + keep / 4
            self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Remove the sessions that have stored nothing for ``keep``.

        A session that stores messages is announced each half of ``keep``. So a session whose last
        announcement is older than 1.5 times ``keep`` has no younger messages.
        """
        before = past(utc_now(), 1.5 * self._keep)
        last: dict[str, Offset] = {}
        # Clocks differ. What was appended before something old is old.
        after = old_until = START
        try:
            while True:
                run = await self._log.read(self._prefix, after, 500)
                for record in run.records:
                    after = last[str(record.data["session"])] = record.offset
                    if record.at < before:
                        old_until = after
                if len(run.records) < 500:
                    break
            old = [f"{self._prefix}:{name}" for name, at in last.items() if at <= old_until]
            for begin in range(0, len(old), 100):
                await self._log.forget(*old[begin : begin + 100])
            await self._log.trim(self._prefix, before=old_until.next())
        except SourceUnavailableError as error:
            _log.info("old MCP sessions cannot be removed now: %s", error)


def _begins_session(message: JSONRPCMessage | None) -> bool:
    """Whether this is the answer to ``initialize``, which a session has once."""
    return isinstance(message, JSONRPCResponse) and "protocolVersion" in message.result
