"""Clients of metrics over bare HTTP, that resume wherever they are taken in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence

__all__ = ["Stream", "following", "numbers"]

_ID = re.compile(rb"^id: ([^\r\n]*)", re.MULTILINE)
_NUMBER = re.compile(rb'"memory_mb":(\d+)')
_NOBODY = 0.05


def numbers(block: bytes) -> list[int]:
    """What distinguishes the reports of an event."""
    return [int(number) for number in _NUMBER.findall(block)]


class Stream:
    """One client and all its connections.

    Arguments:
        came: called with each number when it comes.

    Attributes:
        topic: whose metrics it follows.
        received: the numbers of the reports, in the order in which they came.
        resets, broken, resumed: how often it was reset, cut off, and taken in again.
    """

    def __init__(
        self,
        port: int,
        topic: str,
        key: str,
        came: Callable[[int], None] | None = None,
    ) -> None:
        self.topic = topic
        self.received: list[int] = []
        self.resets = self.broken = self.resumed = 0
        self.opened = asyncio.Event()
        self._port, self._key = port, key
        self._came = came
        self._last = ""

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self._connection()
            except (OSError, EOFError):
                self.broken += self.opened.is_set()
            await asyncio.sleep(_NOBODY)

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            last = f"Last-Event-ID: {self._last}\r\n" if self._last else ""
            writer.write(
                f"GET /api/satellites/{self.topic}/metrics/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {self._key}\r\n{last}\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                # The log is away: opening is refused, while open streams stay.
                if not head.startswith(b"HTTP/1.1 503 "):
                    raise AssertionError(head)
                return
            self.resumed += bool(last)
            kept = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                kept = self._read(kept + (await reader.readexactly(size + 2))[:-2])
        finally:
            writer.transport.abort()

    def _read(self, data: bytes) -> bytes:
        """Take in the whole blocks; what remains."""
        *blocks, rest = data.split(b"\n\n")
        for block in blocks:
            if found := _ID.search(block):
                self._last = found[1].decode()
                self.opened.set()
            self.resets += block.startswith(b"event: reset")
            for number in numbers(block):
                self.received.append(number)
                if self._came is not None:
                    self._came(number)
        return rest


async def following(streams: Sequence[Stream]) -> list[asyncio.Task[None]]:
    """The tasks of streams that are all open."""
    tasks = []
    # Not all at once: this is not about storms.
    for start in range(0, len(streams), 50):
        some = streams[start : start + 50]
        tasks += [asyncio.create_task(each.follow()) for each in some]
        waits = asyncio.gather(*(each.opened.wait() for each in some))
        done, _ = await asyncio.wait([*tasks, waits], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    return tasks
