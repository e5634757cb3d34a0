"""The offer of a connection to its stream, an extension in the ASGI scope."""

from __future__ import annotations

import asyncio

from headwater.web.uvicorn._exchange import Connection, Exchange

__all__ = ["Offer"]


class Offer:
    """One connection, as its stream may have it."""

    __slots__ = ("_protocol", "exchange")

    def __init__(self, protocol: Connection) -> None:
        self._protocol: Connection | None = protocol
        self.exchange: Exchange | None = None

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._protocol is not None:
            self._protocol.abort()

    def join(self) -> None:
        """The response's head is followed by its first bytes at once."""
        if self.exchange is not None:
            self.exchange.joins = True

    def ready(self, passed: int, last: bytes) -> bool:
        """Whether ``passed`` bytes of body came through, and the ``last`` write as it was."""
        exchange, protocol = self.exchange, self._protocol
        return (
            protocol is not None
            and exchange is not None
            and exchange.started
            and not exchange.complete
            and not exchange.disconnected
            and exchange.chunked is True
            and exchange.plain
            and exchange.passed == passed
            and exchange.last == last
            and protocol.room is None
            and not protocol.transport.is_closing()
        )

    def take(self) -> asyncio.Transport:
        """The connection. The server counts it no more, and what it would still send is dropped.

        So are requests that the client sent ahead: their turn would never come.
        """
        protocol, self._protocol, self.exchange = self._protocol, None, None
        assert protocol is not None
        return protocol.release()
