"""One process of clients: streams that leave and resume at random, at any of the servers."""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Few steps for each event: fifty streams of one process share a core with all that is measured.
_SNAPSHOT = re.compile(rb"event: snapshot\nid: ([^\n]+)\ndata: ([^\n]*)\n\n")
_ROW = re.compile(rb'event: row\nid: ([^\n]+)\ndata: {"id":(\d+),[^\n]*\n\n')
_ID = re.compile(rb'"id":(\d+)')
_PATIENCE = 60.0


async def follow(ports: Sequence[int], streams: int, seed: int, count: Path) -> None:
    """Follow until standard input ends and as many rows as the file says; print what was told."""
    dice = random.Random(seed)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, lambda: sys.stdin.readline() == "" and ended.set())
    clients = [Client(ports, dice) for _ in range(streams)]
    running = [loop.create_task(each.live()) for each in clients]
    # Before the first row: a snapshot shows the newest hundred alone.
    await asyncio.gather(*(each.opened.wait() for each in clients))
    print("ready", flush=True)
    await ended.wait()
    for each in clients:
        each.wanted = int(count.read_text())
    # A stream that was told less by then has lost something.
    await asyncio.wait(running, timeout=_PATIENCE)
    for task in running:
        task.cancel()
    names = ("told", "times", "resets", "broken", "resumed", "longest_id")
    json.dump([{name: getattr(each, name) for name in names} for each in clients], sys.stdout)


class Client:
    """One stream and all its connections.

    ``told`` are the rows in the order in which they came, ``times`` has which came
    together, when, and when their connection was live. ``broken`` counts connections that the other
    side ended.
    """

    def __init__(self, ports: Sequence[int], dice: random.Random) -> None:
        self.told: list[int] = []
        self.times: list[tuple[list[int], float, float]] = []
        self.resets = self.broken = self.resumed = self.longest_id = 0
        self.wanted: int | None = None
        self.opened = asyncio.Event()
        self._last: str | None = None
        self._ports, self._dice = ports, dice

    @property
    def done(self) -> bool:
        return self.wanted is not None and len(self.told) >= self.wanted

    async def live(self) -> None:
        while not self.done:
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self._dice.choice(self._ports)
                )
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                await self._connection(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                self.broken += 1
            finally:
                writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resume = f"Last-Event-ID: {self._last}\r\n" if self._last else ""
        writer.write(f"GET /rows/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n{resume}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            # The database is away: opening is refused, while open streams stay.
            assert head.startswith(b"HTTP/1.1 503 "), head
            await asyncio.sleep(0.05)
            return
        self.resumed += bool(self._last)
        since, known, kept, body = time.time(), len(self.told), b"", Body()
        events = self._dice.randrange(1, 2000)
        end = time.monotonic() + self._dice.uniform(0.5, 10)
        while not self.done and len(self.told) - known < events and time.monotonic() < end:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    data = await reader.read(1 << 16)
                    if not data:
                        raise ConnectionResetError
                    # Whoever leaves has not looked at the rest of what came.
                    most = events - (len(self.told) - known)
                    kept = self._read(kept + body.feed(data), most, since)
                    self.opened.set()

    def _read(self, data: bytes, most: int, since: float) -> bytes:
        """Take in the whole blocks, ``most`` rows of them at most; what remains."""
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            return data
        whole, now = data[:end], time.time()
        self.resets += whole.count(b"event: reset\n")
        if b"event: snapshot\n" in whole:
            found = _SNAPSHOT.search(whole)
            assert found is not None
            self._last = found[1].decode()
            self._take(_ID.findall(found[2]), now, since)
        rows = _ROW.findall(whole)[:most]
        if rows:
            self._last = rows[-1][0].decode()
            self.longest_id = max(self.longest_id, len(self._last))
            self._take([number for _, number in rows], now, since)
        return data[end:]

    def _take(self, ids: Sequence[bytes], now: float, since: float) -> None:
        numbers = list(map(int, ids))
        self.told += numbers
        self.times.append((numbers, now, since))


class Body:
    """What the chunks of an answer hold, in whatever pieces they come."""

    def __init__(self) -> None:
        self._raw, self._left = b"", 0

    def feed(self, data: bytes) -> bytes:
        self._raw += data
        found = []
        while self._raw:
            if not self._left:
                size, line, rest = self._raw.partition(b"\r\n")
                if not line:
                    break
                if not size:
                    # The end of the chunk before.
                    self._raw = rest
                    continue
                self._left, self._raw = int(size, 16), rest
                if not self._left:
                    raise ConnectionResetError
            found.append(self._raw[: self._left])
            self._left -= len(found[-1])
            self._raw = self._raw[len(found[-1]) :]
        return b"".join(found)
