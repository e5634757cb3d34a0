"""HTTP/1.1 on one connection, one request at a time, with bounds for all that a client may send.

A later request that a client sends ahead waits, unread, until the answer before it is taken. So the
memory of a connection is bounded by one request, one page and what may be read ahead.
"""

from __future__ import annotations

import asyncio
import operator
from collections import deque
from collections.abc import Hashable
from typing import Any, ClassVar

from headwater.web.uvicorn._connections import Connections, Waiting
from headwater.web.uvicorn._ends import ends_of
from headwater.web.uvicorn._exchange import Exchange
from headwater.web.uvicorn._limits import ConnectionCounters, Limits
from headwater.web.uvicorn._reader import RequestReader
from headwater.web.uvicorn._refusals import Refused, late_body, late_head, refusal
from headwater.web.uvicorn._setup import Setup

# Bytes that a client may send ahead of the answers. With more nothing is read for a while.
_AHEAD = 64 * 1024
# Bytes of a body that are read and dropped after the answer: a client may read it later only.
_DROPPED = 4 * 1024 * 1024


class Protocol(asyncio.Protocol):
    """One connection of uvicorn, ``uvicorn --http headwater.web.uvicorn:Protocol app:app``.

    A subclass may have other limits::

        class Mine(Protocol):
            limits = Limits(connections=2_000)
            counters = ConnectionCounters()

    Attributes:
        limits: what each connection, client address and all of them may take.
        counters: how many connections were refused or closed.
        setup: what all connections of one server have in common.
        room: None while the client takes bytes, else an event for when it takes them again.
        waits: the queue in which this connection waits for its client, or None.
    """

    __slots__ = (
        *("_ahead", "_answered", "_had_one", "_paused", "_queue", "_reader", "_refused"),
        *("_running", "_spare", "room", "setup", "transport", "waits"),
    )

    limits: ClassVar[Limits] = Limits()
    counters: ClassVar[ConnectionCounters] = ConnectionCounters()

    # The set-up of the latest server, and the arguments that it was made of.
    _given: ClassVar[tuple[Any, ...]] = ()
    _setup: ClassVar[Setup | None] = None

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        kind = type(self)
        given = (kind, config, server_state, app_state, _loop or asyncio.get_event_loop())
        setup = Protocol._setup
        if setup is None or not all(map(operator.is_, given, Protocol._given)):
            setup = Setup(*given[1:], limits=kind.limits, counters=kind.counters)
            Protocol._setup, Protocol._given = setup, given
        self.setup: Setup = setup
        self.room: asyncio.Event | None = None
        self.waits: Waiting | None = None
        self._reader: RequestReader | None = None
        # The request that the application answers; those parsed after it; bytes not parsed yet.
        self._running: Exchange | None = None
        self._queue: deque[Exchange] = deque()
        self._ahead: bytearray | None = None
        self._paused = self._answered = self._had_one = False
        self._spare: str | None = None
        self._refused: Refused | None = None

    # The transport calls these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        ends, number = ends_of(transport)
        self._reader = RequestReader(self, self.setup, self.limits, ends)
        self.setup.protocols.add(self)
        client = ends["client"]
        self._spare = self.connections.enter(self, client and client[0], number)
        if not transport.is_closing():
            self.connections.wait(self, self.connections.heads)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._let_go()
        self._answered = False
        self.resume_writing()
        self.connections.leave(self)

    def pause_writing(self) -> None:
        if self.room is None:
            self.room = asyncio.Event()
        self.connections.unread(self)

    def resume_writing(self) -> None:
        room, self.room = self.room, None
        if room is not None:
            room.set()
            self.connections.read(self)
        if self._answered:
            self._answered = False
            self.transport.set_write_buffer_limits()
            self._next()

    def data_received(self, data: bytes) -> None:
        if self._refused is not None or self._reader is None or self.transport.is_closing():
            return
        if self._ahead is not None:
            self._keep(data)
        elif self._busy or (self._running is None and self._waits_for_kernel()):
            self._ahead = bytearray()
            self._keep(data)
        else:
            self._feed(data)

    # Other parts of the server call these.

    @property
    def connections(self) -> Connections:
        """All connections of the server."""
        return self.setup.connections

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not taken."""
        running = self._running
        return self.transport.get_write_buffer_size() + (running.unsent if running else 0)

    @property
    def caller(self) -> Hashable:
        """On whose behalf the latest request is; None before the first."""
        latest = self._running or (self._reader and self._reader.exchange)
        return latest and latest.caller

    @property
    def received(self) -> int:
        """Bytes of the present request's body."""
        return self._reader.received if self._reader is not None else 0

    @property
    def keeps_client_waiting(self) -> bool:
        """Whether the application, and not the client, holds a request's body up."""
        running = self._running
        return self._paused or (running is not None and running.expects_continue)

    def overdue(self) -> None:
        """The client did not send or take bytes in time."""
        connections, waits = self.connections, self.waits
        reader = self._reader
        if waits is connections.heads and reader is not None and reader.begun:
            self._refuse(late_head(self.limits))
        elif waits is connections.bodies:
            self._refuse(late_body(self.limits))
        elif waits is connections.idle and self.unread:
            # It still takes an answer. One that takes nothing for too long is dropped as such.
            connections.wait(self, waits)
        elif waits is connections.idle:
            connections.wait(self, None)
            self.transport.close()
        else:
            if waits is connections.heads:
                connections.count("head_time")
            self.abort()

    def abort(self) -> None:
        """Drop the connection at once."""
        self.connections.wait(self, None)
        self.transport.abort()

    def shutdown(self) -> None:
        """The server ends: close the connection, after the answer if there is one to come."""
        if self._running is None or self._running.complete:
            self.transport.close()
        else:
            self._running.keep_alive = False

    async def drain(self) -> None:
        """Wait until the transport has room, or the client is gone."""
        while self.room is not None:
            self.connections.unread(self)
            await self.room.wait()

    def pause_reading(self) -> None:
        """Read no more for now, so that the client has to wait."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless the client has sent too much ahead."""
        if self._paused and (self._ahead is None or len(self._ahead) < _AHEAD):
            self._paused = False
            self.transport.resume_reading()

    def answered(self) -> None:
        """The application's answer is complete. The next request waits until the kernel has it."""
        self.setup.count_request()
        ahead = self._queue or self._ahead
        if self.room is None and not (ahead and self._waits_for_kernel()):
            self._next()
        else:
            self._answered = True

    def release(self) -> asyncio.Transport:
        """Give the connection to another owner. Requests that were sent ahead are dropped."""
        self._let_go()
        # Reading may have paused for what came ahead, and a client's leaving is noticed by reading.
        self.resume_reading()
        self.connections.stream(self)
        self.setup.count_request()
        return self.transport

    def _let_go(self) -> None:
        """Forget all requests: their answers can no longer be sent from here."""
        self.setup.protocols.discard(self)
        reader, self._reader = self._reader, None
        latest = reader.exchange if reader is not None else None
        for exchange in (self._running, latest, *self._queue):
            if exchange is not None:
                exchange.lose()
        if reader is not None:
            reader.close()
        self._queue.clear()
        self._running = self._ahead = None

    # From one request to the next

    def request(self, exchange: Exchange) -> None:
        """The head of a request is whole."""
        if self._spare is not None:
            exchange.keep_alive = False
        if self._running is None:
            self._begin(exchange)
        else:
            self._queue.append(exchange)

    @property
    def _busy(self) -> bool:
        """Whether a whole request has no answer yet."""
        running = self._running
        return bool(self._queue) or (running is not None and not running.more_body)

    def _waits_for_kernel(self) -> bool:
        """Whether the kernel has not all answers yet. When it has them the next request begins."""
        if self.transport.get_write_buffer_size():
            self._answered = True
            self.transport.set_write_buffer_limits(high=0)
        return self._answered

    def _keep(self, data: bytes | memoryview) -> None:
        assert self._ahead is not None
        self._ahead += data
        if len(self._ahead) >= _AHEAD:
            self.pause_reading()

    def _feed(self, data: bytes | bytearray) -> None:
        reader, view, at = self._reader, memoryview(data), 0
        assert reader is not None
        while at < len(view):
            if self._busy:
                self._ahead = bytearray()
                self._keep(view[at:])
                break
            piece = view[at : at + reader.step]
            refused = reader.feed(piece)
            if refused is not None:
                self._refuse(refused)
                return
            if reader.websocket and self._spare is None:
                self._hand_over(reader)
                return
            if reader.websocket or reader.dropped > _DROPPED:
                self.abort()
            if self.transport.is_closing():
                return
            at += len(piece)
        self._wait_for_client()

    def _wait_for_client(self) -> None:
        connections, reader = self.connections, self._reader
        if self.transport.is_closing() or reader is None:
            return
        queue: Waiting | None
        if reader.in_body:
            queue = connections.bodies
        elif self._running is not None:
            queue = None
        elif reader.begun or not self._had_one:
            queue = connections.heads
        else:
            queue = connections.idle
        if queue is not self.waits:
            connections.wait(self, queue)

    def _next(self) -> None:
        """An answer is sent: go on with the next request."""
        self._running = None
        self._had_one = True
        if self.transport.is_closing():
            # The client gets some time to take the last bytes.
            self.connections.wait(self, self.connections.idle)
            return
        if self._queue:
            self._begin(self._queue.popleft())
        elif self._refused is not None:
            self._write_refusal()
            return
        ahead = self._ahead
        if ahead is not None and not self._busy:
            self._ahead = None
            self.resume_reading()
            self._feed(ahead)
            return
        self.resume_reading()
        self._wait_for_client()

    def _begin(self, exchange: Exchange) -> None:
        """Let the application answer a request."""
        self._running = exchange
        self.setup.run(exchange.run, exchange.scope["path"], self._spare)

    def _refuse(self, refused: Refused) -> None:
        """Answer what cannot be a request, after the answers that are under way, and close."""
        self.connections.count(refused.reason)
        self.connections.wait(self, None)
        self._refused = refused
        self._ahead = None
        reader = self._reader
        exchange = reader.exchange if reader is not None and reader.in_body else None
        if exchange is not None:
            if exchange.started:
                self.abort()
                return
            # It is this request's own body that is missing.
            exchange.lose()
            if exchange is self._running:
                self._running = None
            else:
                self._queue.remove(exchange)
        if self._running is None:
            self._write_refusal()

    def _write_refusal(self) -> None:
        assert self._refused is not None
        self.transport.write(refusal(self._refused, self.setup.default_headers))
        self.connections.wait(self, self.connections.lingering)
        if self.transport.can_write_eof():
            self.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _hand_over(self, reader: RequestReader) -> None:
        """Let the server's own protocol for WebSockets have the connection."""
        self.connections.stream(self)
        again = reader.request_again()
        self._let_go()
        other = self.setup.websocket()
        other.connection_made(self.transport)
        other.data_received(again)
        self.transport.set_protocol(other)
