"""Headwater's own uvicorn protocol: ``uvicorn --http headwater.web.uvicorn:Protocol app:app``.

It offers a stream its connection. Once a response has begun and its bytes are seen to pass through
all middleware unchanged, the stream takes the connection over: the request's task ends, and the
server's protocol, parser, scope and everything that refers to them are freed.
"""

from __future__ import annotations

import asyncio
import operator
import socket
from collections import deque
from typing import Any, ClassVar

import httptools
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.logging import TRACE_LOG_LEVEL
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from headwater.web.asgi import TRANSPORT

__all__ = ["Offer", "Protocol"]

_SPECIAL = frozenset({b"content-encoding", b"content-length", b"transfer-encoding", b"connection"})
# Heads are kept as bytes, as nearly all streams have the same one; but not many.
_MOST_HEADS = 64

# The attributes of a new connection that this module knows.
_KNOWN = frozenset(
    {
        "config", "app", "loop", "logger", "access_logger", "access_log", "parser",
        "ws_protocol_class", "root_path", "asgi_version", "limit_concurrency", "app_state",
        "timeout_keep_alive_task", "timeout_keep_alive", "server_state", "connections", "tasks",
        "transport", "flow", "server", "client", "scheme", "pipeline", "scope", "headers",
        "expect_100_continue", "cycle",
    }
)  # fmt: skip
_LENIENT = hasattr(httptools.HttpRequestParser, "set_dangerous_leniencies")

_heads: dict[tuple[tuple[bytes, bytes], ...], bytes | None] = {}


def _rendered(headers: tuple[tuple[bytes, bytes], ...]) -> bytes | None:
    """Headers as uvicorn writes them; None for those that it treats in a way of their own."""
    if headers in _heads:
        return _heads[headers]
    found: bytes | None = None
    if not any(
        name.lower() in _SPECIAL or HEADER_RE.search(name) or HEADER_VALUE_RE.search(value)
        for name, value in headers
    ):
        found = b"".join(b"%b: %b\r\n" % (name.lower(), value) for name, value in headers)
    if len(_heads) >= _MOST_HEADS:
        _heads.clear()
    _heads[headers] = found
    return found


def _ends_of(number: int) -> tuple[Any, Any]:
    """The addresses of both ends of a connection; uvloop makes a socket for each question."""
    try:
        asked = socket.SocketType(fileno=number)
    except (OSError, ValueError):
        return None, None
    try:
        return asked.getsockname(), asked.getpeername()
    except OSError:
        return None, None
    finally:
        asked.detach()


class _Cycle(RequestResponseCycle):
    """A request that sees what of its response comes through.

    Attributes:
        joins: the head may wait for the first bytes of the body, which follow at once.
    """

    passed = 0
    last = b""
    plain = True
    joins = False
    _head = b""

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.last = body
            self.passed += len(body)
            if self._head:
                head, self._head = self._head, b""
                if self.disconnected:
                    return
                if body and message.get("more_body"):
                    self.transport.write(b"%b%x\r\n%b\r\n" % (head, len(body), body))
                    return
                self.transport.write(head)
        elif message["type"] == "http.response.start":
            headers = message.get("headers", ())
            if self.joins and self._begin(message["status"], tuple(headers)):
                return
            names = {name.lower() for name, _ in headers}
            self.plain = not names & {b"content-encoding", b"content-length", b"transfer-encoding"}
        await super().send(message)

    def _begin(self, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bool:
        """Make the head of a response in chunks, if it is as simple as a stream's."""
        if (
            self.response_started
            or self.disconnected
            or self.access_log
            or self.flow.write_paused
            or not self.keep_alive
            or self.chunked_encoding is not None
            or self.scope["method"] == "HEAD"
            or status in (204, 304)
        ):
            return False
        first = _rendered(tuple(self.default_headers))
        then = _rendered(headers)
        if first is None or then is None:
            return False
        self.response_started = self.chunked_encoding = True
        self.waiting_for_100_continue = False
        self._head = b"%b%b%btransfer-encoding: chunked\r\n\r\n" % (
            STATUS_LINE[status],
            first,
            then,
        )
        return True


class Offer:
    """One connection, as its stream may have it."""

    __slots__ = ("_protocol", "cycle")

    def __init__(self, protocol: Protocol) -> None:
        self._protocol: Protocol | None = protocol
        self.cycle: RequestResponseCycle | None = None

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._protocol is not None:
            self._protocol.transport.abort()

    def join(self) -> None:
        """The response's head is followed by its first bytes at once."""
        if isinstance(self.cycle, _Cycle):
            self.cycle.joins = True

    def ready(self, passed: int, last: bytes) -> bool:
        """Whether ``passed`` bytes of body came through, and the ``last`` write as it was."""
        cycle, protocol = self.cycle, self._protocol
        return (
            protocol is not None
            and isinstance(cycle, _Cycle)
            and cycle.response_started
            and not cycle.response_complete
            and not cycle.disconnected
            and cycle.chunked_encoding is True
            and cycle.plain
            and cycle.passed == passed
            and cycle.last == last
            and not protocol.flow.write_paused
            and not protocol.transport.is_closing()
        )

    def take(self) -> asyncio.Transport:
        """The connection. The server counts it no more, and what it would still send is dropped.

        So are requests that the client sent ahead: their turn would never come.
        """
        protocol, cycle = self._protocol, self.cycle
        assert protocol is not None
        assert cycle is not None
        protocol.pipeline.clear()
        # It may have paused for them; only who reads sees the client leave.
        protocol.flow.resume_reading()
        protocol._unset_keepalive_if_required()
        protocol.connections.discard(protocol)
        protocol.server_state.total_requests += 1
        cycle.disconnected = True
        cycle.message_event.set()
        # They refer to each other, and would else wait for the cyclic collector.
        protocol.parser = None  # type: ignore[assignment]
        self._protocol = self.cycle = None
        return protocol.transport


class Protocol(HttpToolsProtocol):
    """uvicorn's httptools protocol, which offers its connection to streams."""

    offer: Offer

    # What all connections of a server begin with, and for which arguments.
    _given: tuple[Any, ...] = ()
    _begun: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        given = (config, server_state, app_state, _loop or asyncio.get_event_loop())
        if all(map(operator.is_, given, Protocol._given)) and Protocol._given:
            self.__dict__.update(Protocol._begun)
            self.access_log = self.access_logger.hasHandlers()
            self.pipeline = deque()
            self.parser = httptools.HttpRequestParser(self)
            if _LENIENT:
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            return
        super().__init__(config, server_state, app_state, _loop)
        # Loggers are found under a lock, one by one. Where uvicorn has more that each connection
        # has for itself, it is left to it.
        if self.__dict__.keys() == _KNOWN:
            Protocol._given = given
            Protocol._begun = {**self.__dict__, "parser": None, "pipeline": None}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        sock = transport.get_extra_info("socket")
        if self.logger.isEnabledFor(TRACE_LOG_LEVEL) or type(sock).__module__ != "uvloop.loop":
            super().connection_made(transport)
            return
        here, there = _ends_of(sock.fileno())
        if not (isinstance(here, tuple) and isinstance(there, tuple)):
            super().connection_made(transport)
            return
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.server, self.client = here[:2], there[:2]
        self.scheme = "https" if transport.get_extra_info("sslcontext") else "http"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.offer = Offer(self)
        self.scope["extensions"] = {TRANSPORT: self.offer}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        # The request's task has been made but has not begun, so it will call this class's `send`.
        if self.cycle is not None and type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _Cycle
            self.offer.cycle = self.cycle
