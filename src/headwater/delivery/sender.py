"""Bytes to one connection: the last step before the wire, the same for every kind of stream.

A sender takes bytes without waiting, joins what becomes due in one tick of the event loop into one
write, and says how much it holds. Who writes faster than the peer reads looks at ``pending`` and
stops; the sender calls ``on_idle`` once everything has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = ["AsgiSender", "Sender"]

logger = logging.getLogger("headwater.delivery")

Headers = Iterable[tuple[bytes, bytes]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Sender(ABC):
    """Bytes to one connection.

    Attributes:
        pending: bytes taken that have not left yet.
        closed: nothing more can be sent: finished, aborted, or the peer has gone.
        busy_since: the loop's time at which the write under way began, or None. A shared timer
            looks at it to drop peers that stopped reading.
        on_idle: called when ``pending`` comes back to 0, also when the sender is closed.
    """

    __slots__ = ("busy_since", "closed", "on_idle", "pending")

    def __init__(self) -> None:
        self.pending = 0
        self.closed = False
        self.busy_since: float | None = None
        self.on_idle: Callable[[], None] | None = None

    @abstractmethod
    def start(self, status: int, headers: Headers) -> None:
        """Send the response's head."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Take bytes of the body. Does nothing once closed."""

    @abstractmethod
    def finish(self) -> None:
        """End the response after what is pending. Idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection and what is pending. Idempotent."""


class AsgiSender(Sender):
    """A sender on ASGI's ``send``. While nothing is due it needs no task.

    Arguments:
        send: the ASGI callable.
        on_done: called once when the response has ended for any reason but the peer leaving.
        drop: closes the connection at once, where the server offers that; else the server closes
            it when the ASGI application returns.
    """

    __slots__ = ("_drop", "_finishing", "_flusher", "_head", "_on_done", "_parts", "_send")

    def __init__(
        self,
        send: Send,
        *,
        on_done: Callable[[], None],
        drop: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._send = send
        self._on_done = on_done
        self._drop = drop
        self._head: dict[str, Any] | None = None
        self._parts: list[bytes] = []
        self._finishing = False
        self._flusher: asyncio.Task[None] | None = None

    def start(self, status: int, headers: Headers) -> None:
        self._head = {"type": "http.response.start", "status": status, "headers": list(headers)}
        self._wake()

    def write(self, data: bytes) -> None:
        if self.closed or self._finishing or not data:
            return
        self._parts.append(data)
        self.pending += len(data)
        if self._flusher is None:
            self._wake()

    def finish(self) -> None:
        if not (self.closed or self._finishing):
            self._finishing = True
            self._wake()

    def abort(self) -> None:
        if self.closed:
            return
        self._close()
        if self._flusher is not None:
            self._flusher.cancel()
        if self._drop is not None:
            self._drop()
        self._on_done()

    def gone(self) -> None:
        """The peer has left: what is pending is dropped. A write under way ends by itself."""
        self._close()

    def _close(self) -> None:
        self.closed = True
        self._parts.clear()
        self.pending = 0
        self.busy_since = None
        if self.on_idle is not None:
            self.on_idle()

    def _wake(self) -> None:
        if self._flusher is None:
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        # One task for as long as there is something to send. It begins in the next tick of the
        # loop, so that everything written in this one leaves together.
        loop = asyncio.get_running_loop()
        try:
            while not self.closed:
                if self._head is not None:
                    head, self._head = self._head, None
                    self.busy_since = loop.time()
                    await self._send(head)
                    if not self._parts and not self._finishing:
                        # An empty body message makes servers send the head now.
                        await self._send(
                            {"type": "http.response.body", "body": b"", "more_body": True}
                        )
                elif self._parts:
                    data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                    self._parts.clear()
                    self.busy_since = loop.time()
                    await self._send(
                        {"type": "http.response.body", "body": data, "more_body": True}
                    )
                    if self.closed:
                        break
                    self.pending -= len(data)
                elif self._finishing:
                    self.busy_since = loop.time()
                    await self._send({"type": "http.response.body", "body": b""})
                    self._close()
                    self._on_done()
                else:
                    break
                self.busy_since = None
                if not self.pending and not self._finishing and self.on_idle is not None:
                    self.on_idle()
        except asyncio.CancelledError:
            if not self.closed:
                self._close()
                self._on_done()
        except Exception as error:
            # Servers differ in what they raise when the peer has gone; to us it is all the same.
            logger.debug("the connection was lost while sending: %r", error)
            if not self.closed:
                self._close()
                with contextlib.suppress(Exception):
                    self._on_done()
        finally:
            self.busy_since = None
            self._flusher = None
