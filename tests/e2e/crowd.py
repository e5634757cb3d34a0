"""Readers that leave at random moments and resume, and writers that do not outrun them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from headwater.protocol import Decoder
from support.http import request

__all__ = ["Pace", "Reader", "Shore", "plain_sql_writer", "rows_of", "write_all"]

# What a connection raises when its server is killed.
BROKEN = (OSError, EOFError, TimeoutError)


class Shore:
    """Where the server is: all wait here while it is down."""

    def __init__(self) -> None:
        self._up = asyncio.Event()
        self._up.set()

    def down(self) -> None:
        self._up.clear()

    def up(self) -> None:
        self._up.set()

    async def wait(self) -> None:
        await self._up.wait()


class Pace:
    """Keeps writers at most ``lag`` items ahead of the slowest reader: what is read is live."""

    def __init__(self, readers: Iterable[Reader], lag: int) -> None:
        self._readers = list(readers)
        self._lag = lag
        self._moved = asyncio.Condition()
        self.written = 0
        for reader in self._readers:
            reader.pace = self

    async def moved(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def reached(self, count: int) -> None:
        """Wait until this many were written, or are about to be."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.written >= count)

    async def wait(self, count: int) -> None:
        """Wait until ``count`` more may be written."""
        async with self._moved:
            await self._moved.wait_for(
                lambda: self.written - min(r.weight() for r in self._readers) < self._lag
            )
        self.written += count


class Reader:
    """One client of a feed.

    Arguments:
        path: of the REST half, with its parameters.
        key: of what is read off each item.
        leaves: after how many items it leaves, in rising order.
        weight: how many of all that was written it has passed; what a pace looks at.
        port: where the next connection goes; several servers may share a database.

    Attributes:
        items: what it was told, in order.
        resumed: how often it came back.
    """

    def __init__(
        self,
        port: Callable[[], int],
        path: str,
        event: str,
        headers: dict[str, str],
        *,
        rng: random.Random,
        leaves: Iterable[int],
        key: str = "message",
        last: object = "the end",
        weight: Callable[[Reader], int] = lambda reader: len(reader.items),
        shore: Shore | None = None,
    ) -> None:
        self._port = port
        self._rest, _, self._query = path.partition("?")
        self._event = event
        self._headers = headers
        self._rng = rng
        self._leaves = sorted(leaves, reverse=True)
        self._key = key
        self._last = last
        self._weight = weight
        self._shore = shore or Shore()
        self.id = ""
        self.items: list[Any] = []
        self.resumed = -1
        self.broken = 0
        self.pace: Pace | None = None

    def weight(self) -> int:
        return self._weight(self)

    @property
    def done(self) -> bool:
        return bool(self.items) and self.items[-1] == self._last

    async def begin(self) -> None:
        """A first visit, to the feed while it is empty: takes the snapshot's position."""
        path = f"{self._rest}/stream?{self._query}"
        async with request(self._port(), path, headers=self._headers) as answer:
            snapshot = await answer.next()
            assert snapshot.event == "snapshot"
            assert not json.loads(snapshot.data)["has_more"]
            self.id = snapshot.last_event_id

    async def follow(self) -> None:
        """Until the last item was told, and it has left as often as it wanted to."""
        while self._leaves or not self.done:
            await self._shore.wait()
            self.resumed += 1
            try:
                if self._rng.random() < 0.2:
                    await self._page()
                else:
                    await self._stream()
            except BROKEN:
                self.broken += 1
            await self._moved()

    async def _moved(self) -> None:
        if self.pace is not None:
            await self.pace.moved()

    async def _page(self) -> None:
        """Catch up by REST for once."""
        path = (
            f"{self._rest}?{self._query}&after={quote(self.id)}&limit={self._rng.randint(1, 100)}"
        )
        async with request(self._port(), path, headers=self._headers) as answer:
            body = json.loads(await answer.body())
            assert answer.status == 200, body
            collection = next(value for value in body.values() if isinstance(value, list))
            self.items += [item[self._key] for item in collection]
            self.id = body["position"]

    async def _stream(self) -> None:
        headers = dict(self._headers)
        query = f"{self._query}&limit={self._rng.randint(1, 100)}"
        way = self._rng.randrange(3)
        if way == 0:
            headers["Last-Event-ID"] = self.id
        else:
            query += f"&{'after' if way == 1 else 'lastEventId'}={quote(self.id)}"
        decoder = Decoder(last_event_id=self.id)
        path = f"{self._rest}/stream?{query}"
        async with request(self._port(), path, headers=headers) as answer:
            if answer.status == 503:
                return
            assert answer.status == 200, await answer.body()
            while self._leaves or not self.done:
                data = await answer.read_some()
                if not data:
                    return
                marks = data.count(b"event: ")
                leaving = self._leaves and len(self.items) + marks >= self._leaves[-1]
                if leaving:
                    # Somewhere in these bytes, also in the middle of an event.
                    data = data[: self._rng.randint(0, len(data))]
                for message in decoder.feed(data):
                    self._take(message.event, message.data)
                    self.id = message.last_event_id
                await self._moved()
                if leaving:
                    self._leaves.pop()
                    return

    def _take(self, event: str, data: str) -> None:
        told = json.loads(data)
        # Neither a reset nor a snapshot nor an error, ever.
        assert event == self._event, (event, data)
        self.items.append(told[self._key])


def rows_of(database: Path, statement: str, *parameters: object) -> list[Any]:
    """Read with plain SQL."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        return connection.execute(statement, parameters).fetchall()


async def write_all(
    batches: list[list[Any]],
    url: Callable[[], str],
    headers: dict[str, str],
    body: Callable[[list[Any]], dict[str, Any]],
    written: Callable[[list[Any]], int],
    pace: Pace,
    shore: Shore,
) -> None:
    """Post batches one after another, across restarts of the server.

    Arguments:
        written: how many of a batch are in the database, for a request that was not answered.
    """
    async with httpx.AsyncClient(headers=headers, timeout=30) as api:
        for batch in batches:
            await pace.wait(len(batch))
            while True:
                await shore.wait()
                try:
                    answer = await api.post(url(), json=body(batch))
                except httpx.TransportError:
                    await shore.wait()
                    found = await asyncio.to_thread(written, batch)
                    # All of it or nothing, whenever the server was killed.
                    assert found in (0, len(batch)), (found, batch)
                    if found:
                        break
                else:
                    assert answer.status_code == 201, answer.text
                    assert len(answer.json()["ids"]) == len(batch)
                    break


_SQL = """
import json, sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
insert = (
    "INSERT INTO log_entries (user_id, level, source, message, created_at) "
    "VALUES (?, ?, 'sql', ?, ?)"
)
now = database.execute("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").fetchone()[0]
for line in sys.stdin:
    batch, undo = json.loads(line)
    if undo:
        database.execute("BEGIN IMMEDIATE")
        database.executemany(insert, [(sys.argv[2], level, "undone", now) for level, _ in batch])
        database.execute("ROLLBACK")
    database.execute("BEGIN IMMEDIATE")
    database.executemany(insert, [(sys.argv[2], *row, now) for row in batch])
    database.execute("COMMIT")
    print("written", flush=True)
"""


async def plain_sql_writer(
    database: Path,
    user_id: str,
    batches: list[list[tuple[str, str]]],
    pace: Pace,
    rng: random.Random,
) -> None:
    """Write log entries (level, message) from another process, which also rolls some back.

    All have the same ``created_at``, however late they commit.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SQL, str(database), user_id),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for batch in batches:
            await pace.wait(len(batch))
            process.stdin.write(json.dumps([batch, rng.random() < 0.3]).encode() + b"\n")
            assert await process.stdout.readline() == b"written\n"
    finally:
        process.stdin.close()
        await process.wait()
