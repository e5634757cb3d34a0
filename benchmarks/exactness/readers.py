"""One process of readers: streams through two hubs, which leave and resume at random."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.exactness.model import FEED, Item
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.delivery.feed_stream import FeedStream, open_feed
from headwater.delivery.hub import Hub
from headwater.errors import SourceUnavailableError
from headwater.sql import Table
from support.streams import MemorySender

_EVENT = re.compile(rb"event: (snapshot|row)\nid: ([^\n]+)\ndata: ([^\n]*)\n\n")
_ID = re.compile(rb'"id":(\d+)')


class Sender(MemorySender):
    """Tells its client when bytes have come."""

    def __init__(self, arrived: asyncio.Event) -> None:
        super().__init__()
        self._arrived = arrived

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.data += data
            self._arrived.set()


class Client:
    """A stream's client. It reads just what it has to, so that fifty of them cost little."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.last: str | None = None
        self.resets = 0
        self._sender: Sender | None = None
        self._stream: FeedStream | None = None

    async def connect(self, hub: Hub, table: Table, arrived: asyncio.Event) -> None:
        self._sender = Sender(arrived)
        async with hub.channel(FEED, table.where()) as channel:
            opening = await open_feed(channel, limit=100, resume=self.last)
            self._stream = FeedStream(self._sender, hub.streams, channel, limit=100, heartbeat=None)
            self._stream.begin(opening)
        self.read()

    def read(self, most: int | None = None) -> None:
        """Take in what has come; only the first ``most`` events if the client then leaves."""
        assert self._sender is not None
        data, self._sender.data = self._sender.data, b""
        self.resets += data.count(b"event: reset")
        for found in itertools.islice(_EVENT.finditer(data), most):
            self.last = found[2].decode()
            self.told += map(int, _ID.findall(found[3]))

    def leave(self, most: int | None) -> None:
        self.read(most)
        assert self._sender is not None
        assert self._stream is not None
        self._sender.gone()
        self._stream.close()


async def read(url: str, order: str, streams: int, seed: int, count: Path) -> None:
    """Follow until standard input ends and as many rows as the file says; say what was told."""
    dice = random.Random(seed)
    engine = create_async_engine(url)
    hubs = [Hub() for _ in range(2)]
    tables = [Table(engine, Item, order=order) for _ in hubs]  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, lambda: sys.stdin.readline() == "" and ended.set())
    found = [Reader(dice) for _ in range(streams)]
    running = [loop.create_task(each.live(hubs, tables)) for each in found]
    # Before the first row: a snapshot shows the newest hundred alone.
    await asyncio.gather(*(each.opened.wait() for each in found))
    print("ready", flush=True)
    await ended.wait()
    wanted = int(count.read_text())
    for each in found:
        each.last_round = wanted
    # A stream that was told less by then has lost something.
    await asyncio.wait(running, timeout=60)
    for task in running:
        task.cancel()
    json.dump(
        [
            {"told": each.client.told, "times": each.times, "resets": each.client.resets}
            for each in found
        ],
        sys.stdout,
    )
    for hub in hubs:
        await hub.close()
    await engine.dispose()


class Reader:
    """One stream and all its connections."""

    def __init__(self, dice: random.Random) -> None:
        self.client = Client()
        self.times: list[tuple[int, float, float]] = []
        self.last_round: int | None = None
        self.opened = asyncio.Event()
        self._dice = dice

    async def live(self, hubs: Sequence[Hub], tables: Sequence[Table]) -> None:
        while self.last_round is None or len(self.client.told) < self.last_round:
            which = self._dice.randrange(len(hubs))
            with suppress(SourceUnavailableError):
                await self._connection(hubs[which], tables[which])
                continue
            await asyncio.sleep(0.05)

    async def _connection(self, hub: Hub, table: Table) -> None:
        client, dice, arrived = self.client, self._dice, asyncio.Event()
        before = len(client.told)
        await client.connect(hub, table, arrived)
        self.opened.set()
        since = time.time()
        self._note(before, since)
        events, patience = dice.randrange(1, 2000), time.monotonic() + dice.uniform(0.5, 10)
        while len(client.told) - before < events and time.monotonic() < patience:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await arrived.wait()
            arrived.clear()
            known = len(client.told)
            client.read()
            self._note(known, since)
            if self.last_round is not None and len(client.told) >= self.last_round:
                break
        client.leave(most=dice.choice([None, 0, 1]))

    def _note(self, known: int, since: float) -> None:
        now = time.time()
        self.times += [(number, now, since) for number in self.client.told[known:]]
