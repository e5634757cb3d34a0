"""What a client sends on a request that is answered with a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from headwater.errors import UsageError

Message = MutableMapping[str, Any]

# Bytes of a body that are kept for a handler which has not asked for it yet.
_KEPT = 256 * 1024


class Incoming:
    """An ASGI ``receive`` for two: the handler, and a task that waits for the client to leave.

    The task has to read on, and may read the request's body before the handler asks for it. It
    keeps the body for the handler, up to a limit; a client that sends more has to wait. If the
    response begins and the handler has not asked, the body is dropped, so that the task notices
    when the client leaves.

    Attributes:
        gone: the client has left, or the response is over.
    """

    def __init__(self, receive: Callable[[], Awaitable[Message]]) -> None:
        self.gone = False
        self._receive = receive
        self._reading = asyncio.Lock()
        self._kept: deque[Message] = deque()
        self._bytes = 0
        self._wanted = False
        self._begun = False
        self._dropped = False
        self._moved = asyncio.Event()

    async def receive(self) -> Message:
        """The next message, for the handler."""
        self._wanted = True
        if not self._kept and not self.gone and not self._dropped:
            async with self._reading:
                if not self._kept and not self.gone:
                    return await self._read()
        if self._dropped and not self.gone:
            raise UsageError(
                f"the request's body of more than {_KEPT} bytes was dropped when the stream began: "
                "read it before the first event"
            )
        if self._kept:
            message = self._kept.popleft()
            self._bytes -= len(message.get("body", b""))
            self._moved.set()
            return message
        return {"type": "http.disconnect"}

    async def until_gone(self) -> None:
        """Wait until the client has left."""
        while not self.gone:
            if self._bytes > _KEPT:
                if self._begun and not self._wanted:
                    self.drop()
                else:
                    self._moved.clear()
                    await self._moved.wait()
                continue
            async with self._reading:
                message = await self._read()
                if not self.gone and not self._dropped:
                    self._kept.append(message)
                    self._bytes += len(message.get("body", b""))

    def begin(self) -> None:
        """The response has begun."""
        self._begun = True
        self._moved.set()

    def drop(self) -> None:
        """Keep nothing of the body."""
        self._dropped = True
        self._kept.clear()
        self._bytes = 0
        self._moved.set()

    async def _read(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
        return message
