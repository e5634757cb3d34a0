"""Bytes to one connection: the last step before the wire, the same for every kind of stream.

A sender buffers bytes without waiting. A writer checks ``full`` and stops while it is set; the
sender calls its stream's ``idle`` when there is room again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

logger = logging.getLogger("headwater.delivery")

# Bytes that may wait for one client before its stream is behind. A stream that catches up is sent
# as many at a time. With the kernel's buffers it makes the 256 KB of a stream.
ROOM = 64 * 1024

Headers = Iterable[tuple[bytes, bytes]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def _nothing() -> None:
    pass


class Notified(Protocol):
    """The member of a stream that every sender uses."""

    def idle(self) -> None:
        """There is room again."""
        ...


class ServerConnection(Protocol):
    """What a server offers besides ASGI.

    Attributes:
        taken: a number that changes when the peer takes bytes; None: unknown.
    """

    @property
    def taken(self) -> int | None: ...

    def abort(self) -> None:
        """Close the connection at once."""
        ...


class Sender(ABC):
    """Bytes to one connection.

    Attributes:
        closed: nothing more can be sent: finished, aborted, or the peer has gone.
        full: more than ``ROOM`` bytes wait. Further bytes are accepted, but the writer should stop.
        blocked: a call of the server's ``send`` is under way, which waits while the peer takes
            nothing.
        stream: is notified when there is room again, also when the sender is closed.
    """

    __slots__ = ("blocked", "closed", "full", "stream")

    def __init__(self) -> None:
        self.closed = False
        self.full = False
        self.blocked = False
        self.stream: Notified | None = None

    @property
    @abstractmethod
    def pending(self) -> int:
        """Bytes that were written and have not left yet."""

    @property
    def sent(self) -> int | None:
        """Bytes that the peer has acknowledged, or that were given to the server; None: unknown."""
        return None

    @property
    def taken(self) -> int | None:
        """A number that changes when the peer of a full or blocked sender takes bytes."""
        return self.sent

    @abstractmethod
    def start(self, status: int, headers: Headers, /) -> None:
        """Send the response's head."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes of the body, after all that wait. Once closed they are dropped."""

    @abstractmethod
    def gone(self) -> None:
        """The peer has left: what is pending is dropped."""

    @abstractmethod
    def finish(self) -> None:
        """End the response after what is pending. Idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """Drop the connection and what is pending. Idempotent."""


class AsgiSender(Sender):
    """A sender on ASGI's ``send``.

    What is written in one tick of the event loop leaves in one call of ``send``. While nothing
    waits there is no task.

    Arguments:
        send: the ASGI callable.
        on_done: is called once when the response has ended, unless the peer has left.
        connection: if the server offers one. Otherwise the server closes it when the ASGI
            application returns.
        held: nothing is sent before ``flush`` is called, which needs no task. Only with a
            ``connection``.

    Attributes:
        passed: the number of the body's bytes that were passed to ``send``.
        last: the bytes that were passed to it last.
        on_flushed: is called when nothing waits any more.
    """

    __slots__ = (
        "_connection", "_finishing", "_flusher", "_head", "_held", "_on_done", "_parts", "_pending",
        "_send", "last", "on_flushed", "passed",
    )  # fmt: skip

    def __init__(
        self,
        send: Send,
        *,
        on_done: Callable[[], None],
        connection: ServerConnection | None = None,
        held: bool = False,
    ) -> None:
        super().__init__()
        self._send = send
        self._on_done = on_done
        self._connection = connection
        self._held = held
        self._head: dict[str, Any] | None = None
        self._parts: list[bytes] = []
        self._pending = 0
        self._finishing = False
        self._flusher: asyncio.Task[None] | None = None
        self.passed = 0
        self.last = b""
        self.on_flushed: Callable[[], None] | None = None

    @property
    def pending(self) -> int:
        return self._pending

    @property
    def sent(self) -> int | None:
        return self.passed

    @property
    def taken(self) -> int | None:
        found = None if self._connection is None else self._connection.taken
        return self.passed if found is None else found

    def start(self, status: int, headers: Headers, /) -> None:
        self._head = {"type": "http.response.start", "status": status, "headers": list(headers)}
        self._wake()

    def write(self, data: bytes) -> None:
        if self.closed or self._finishing or not data:
            return
        self._parts.append(data)
        self._pending += len(data)
        if self._pending > ROOM:
            self.full = True
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
        if self._connection is not None:
            self._connection.abort()
        self._on_done()

    def gone(self) -> None:
        # A call of ``send`` that is under way ends by itself.
        self._close()

    def retire(self) -> None:
        """Send no more notices: another sender has taken the connection over."""
        self.stream = self.on_flushed = None
        self._on_done = _nothing

    def _close(self) -> None:
        self.closed = True
        self.full = False
        self._parts.clear()
        self._pending = 0
        self.blocked = False
        if self.stream is not None:
            self.stream.idle()

    async def flush(self) -> None:
        """Send what waits in the caller's task. What is written later is sent without ``flush``."""
        try:
            await self._send_all()
        finally:
            self.blocked = False
            self._held = False

    def _wake(self) -> None:
        if self._flusher is None and not self._held:
            self._flusher = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        # One task for as long as something waits. It begins in the next tick of the loop, so that
        # everything that is written in this one leaves together.
        try:
            await self._send_all()
        except asyncio.CancelledError:
            if not self.closed:
                self._close()
                self._on_done()
        finally:
            self.blocked = False
            self._flusher = None

    async def _send_body(self, data: bytes, *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def _send_all(self) -> None:
        try:
            while not self.closed:
                if self._head is not None:
                    head, self._head = self._head, None
                    self.blocked = True
                    await self._send(head)
                    if not self._parts and not self._finishing:
                        # An empty body message makes servers send the head now.
                        await self._send_body(b"")
                elif self._parts:
                    data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                    self._parts.clear()
                    self.blocked = True
                    await self._send_body(data)
                    if self.closed:
                        break
                    self.passed += len(data)
                    self.last = data
                    if len(data) > ROOM:
                        # Servers take a message of any size at once. The next one waits until the
                        # client has taken enough of it.
                        await self._send_body(b"")
                        if self.closed:
                            break
                    self._pending -= len(data)
                elif self._finishing:
                    self.blocked = True
                    await self._send_body(b"", more=False)
                    self._close()
                    self._on_done()
                else:
                    break
                self.blocked = False
                if not self._pending and not self._finishing:
                    self.full = False
                    if self.stream is not None:
                        self.stream.idle()
                    if not self._pending and self.on_flushed is not None:
                        self.on_flushed()
        except Exception as error:
            # Servers differ in what they raise when the peer has gone.
            logger.debug("the connection was lost while sending: %r", error)
            if not self.closed:
                self._close()
                with contextlib.suppress(Exception):
                    self._on_done()
