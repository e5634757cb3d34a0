"""Clients that come back as an EventSource does, and when each of them did."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections import Counter
from collections.abc import Iterable

from headwater.protocol import Decoder

__all__ = ["Flock", "Returning", "by_second"]

# Milliseconds, until a stream names another time: Chromium's.
_RETRY = 3000
# Seconds between two looks at whether this process gets the processor.
_LOOK = 0.02
# What a connection raises when its server, or the proxy's server, is away.
_BROKEN = (OSError, EOFError)


class Returning:
    """One client of a feed of log lines.

    It ends for good where an EventSource does: at an answer that is no event stream with 200.

    Attributes:
        messages: the lines that it was sent.
        returns: ``time.monotonic()`` of each stream that began with items or a snapshot.
        due: the same, of when it was to ask again after each stream that was live.
        refused: the status that ended it; None while it lives.
    """

    def __init__(
        self, port: int, path: str, headers: dict[str, str], tls: ssl.SSLContext | None = None
    ) -> None:
        self._port = port
        self._path = path
        self._headers = headers
        self._tls = tls
        self._position = ""
        self._retry = _RETRY
        self.messages: list[str] = []
        self.returns: list[float] = []
        self.due: list[float] = []
        self.snapshots = 0
        self.live = False
        self.refused: int | None = None

    async def run(self) -> None:
        while self.refused is None:
            try:
                await self._stream()
            except _BROKEN:
                pass
            if self.live:
                self.due.append(time.monotonic() + self._retry / 1000)
            self.live = False
            await asyncio.sleep(self._retry / 1000)  # what the server asks clients to wait

    async def _stream(self) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self._port,
            ssl=self._tls,
            server_hostname="localhost" if self._tls else None,
        )
        try:
            headers = {"Host": "localhost", "Accept": "text/event-stream", **self._headers}
            if self._position:
                headers["Last-Event-ID"] = self._position
            lines = [f"GET {self._path} HTTP/1.1", *(f"{k}: {v}" for k, v in headers.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            status = int(head.split(" ")[1])
            if status != 200 or "content-type: text/event-stream" not in head:
                self.refused = status
                return
            length = re.search(r"content-length: (\d+)", head)
            await self._read(reader, None if length is None else int(length[1]))
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, length: int | None) -> None:
        decoder = Decoder(last_event_id=self._position)
        while data := await (_chunk(reader) if length is None else reader.read(length)):
            length = None if length is None else length - len(data)
            for message in decoder.feed(data):
                self._position = message.last_event_id
                if message.event == "log":
                    self.messages.append(json.loads(message.data)["message"])
                elif message.event == "snapshot":
                    self.snapshots += 1
            self._retry = decoder.retry or self._retry
            # Only a stream that stays begins with this time: one that is to end names another.
            if not self.live and decoder.retry == 2000:
                self.live = True
                self.returns.append(time.monotonic())


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


class Flock:
    """Many such clients. Use as an async context manager."""

    def __init__(self, clients: Iterable[Returning]) -> None:
        self.clients = list(clients)
        self._tasks: list[asyncio.Task[None]] = []
        self._lags: list[tuple[float, float]] = []

    async def __aenter__(self) -> Flock:
        self._tasks = [asyncio.create_task(client.run()) for client in self.clients]
        self._tasks.append(asyncio.create_task(self._watch()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def all_live(self) -> bool:
        """Whether each has an open stream. Raises AssertionError when one has ended for good."""
        refused = Counter(client.refused for client in self.clients if client.refused)
        assert not refused, f"clients that ended, by the status: {dict(refused)}"
        return all(client.live for client in self.clients)

    def histogram(self, since: float) -> Counter[int]:
        """How many came back first in each tenth of a second after ``since``."""
        return _tenths([each.returns for each in self.clients], since)

    def stalled(self, since: float) -> float:
        """The longest time, in seconds, in which this process did nothing after ``since``."""
        return max((lag for moment, lag in self._lags if moment > since), default=0.0)

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LOOK)  # how late it wakes is what is measured
            self._lags.append((began, time.monotonic() - began - _LOOK))

    def planned(self, since: float) -> Counter[int]:
        """How many were to ask again first in each tenth: as the servers spread them.

        Where this machine is busy, its stalls bring those together that come.
        """
        return _tenths([each.due for each in self.clients], since)


def _tenths(moments: list[list[float]], since: float) -> Counter[int]:
    later = [[moment for moment in each if moment > since] for each in moments]
    return Counter(int((min(each) - since) * 10) for each in later if each)


def by_second(found: Counter[int]) -> str:
    """How many came in each second, for people."""
    seconds: Counter[int] = Counter()
    for tenth, count in found.items():
        seconds[tenth // 10] += count
    return " ".join(str(seconds[second]) for second in range(max(seconds, default=-1) + 1))
