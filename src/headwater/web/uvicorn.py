"""Headwater's own uvicorn protocol: ``uvicorn --http headwater.web.uvicorn:Protocol app:app``.

It offers a stream its connection. Once a response has begun and its bytes are seen to pass through
all middleware unchanged, the stream takes the connection over: the request's task ends, and the
server's protocol, parser, scope and everything that refers to them are freed.
"""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from headwater.web.asgi import TRANSPORT

__all__ = ["Offer", "Protocol"]


class _Cycle(RequestResponseCycle):
    """A request that sees what of its response comes through."""

    passed = 0
    last = b""
    plain = True

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.body":
            self.last = message.get("body", b"")
            self.passed += len(self.last)
        elif message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self.plain = not names & {b"content-encoding", b"content-length", b"transfer-encoding"}
        await super().send(message)


class Offer:
    """One connection, as its stream may have it."""

    __slots__ = ("_protocol", "cycle")

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self.cycle: RequestResponseCycle | None = None

    def abort(self) -> None:
        """Drop the connection at once."""
        self._protocol.transport.abort()

    def ready(self, passed: int, last: bytes) -> bool:
        """Whether ``passed`` bytes of body came through, and the ``last`` write as it was."""
        cycle = self.cycle
        return (
            isinstance(cycle, _Cycle)
            and cycle.response_started
            and not cycle.response_complete
            and not cycle.disconnected
            and cycle.chunked_encoding is True
            and cycle.plain
            and cycle.passed == passed
            and cycle.last == last
            and not self._protocol.flow.write_paused
            and not self._protocol.transport.is_closing()
        )

    def take(self) -> asyncio.Transport:
        """The connection. The server counts it no more, and what it would still send is dropped.

        So are requests that the client sent ahead: their turn would never come.
        """
        protocol, cycle = self._protocol, self.cycle
        assert cycle is not None
        protocol.pipeline.clear()
        # It may have paused for them; only who reads sees the client leave.
        protocol.flow.resume_reading()
        protocol._unset_keepalive_if_required()
        protocol.connections.discard(protocol)
        protocol.server_state.total_requests += 1
        cycle.disconnected = True
        cycle.message_event.set()
        return protocol.transport


class Protocol(HttpToolsProtocol):
    """uvicorn's httptools protocol, which offers its connection to streams."""

    offer: Offer

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
