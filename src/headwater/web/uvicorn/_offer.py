"""The offer of a connection to its stream, an extension in the ASGI scope."""

from __future__ import annotations

import asyncio

from headwater.delivery._taken import taken
from headwater.web.uvicorn._exchange import Connection, Exchange


class Offer:
    """The offer of one connection. A stream may take it once."""

    __slots__ = ("_protocol", "exchange")

    def __init__(self, protocol: Connection) -> None:
        self._protocol: Connection | None = protocol
        self.exchange: Exchange | None = None

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._protocol is not None:
            self._protocol.abort()

    @property
    def taken(self) -> int | None:
        """A number that changes when the client takes bytes; None: unknown."""
        return None if self._protocol is None else taken(self._protocol.transport)

    def join(self) -> None:
        """Let the response's head wait for the first bytes of its body, for one write of both."""
        if self.exchange is not None:
            self.exchange.joins = True

    def ready(self, passed: int, last: bytes) -> bool:
        """Whether it can be taken: no middleware has changed the body so far.

        Arguments:
            passed: the number of the body's bytes that the stream has sent.
            last: those that it sent last.
        """
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
        """Take the connection. The server sends nothing more on it, and no longer counts it.

        Requests that the client sent ahead are dropped: they would never be answered.
        """
        protocol, self._protocol, self.exchange = self._protocol, None, None
        assert protocol is not None
        return protocol.release()
