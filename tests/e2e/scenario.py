"""Writers and readers of one feed at once, and the proof that each reader was told everything."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from crowd import Pace, Reader, Shore, plain_sql_writer, rows_of, write_all
from running import Running

__all__ = ["LOG", "METRICS", "Feed", "Scenario"]

LEVELS = ("debug", "info", "warning", "error", "critical")
Row = tuple[str, Any]


@dataclass(frozen=True)
class Feed:
    """A feed that the scenario can be played on.

    Attributes:
        path: of the REST half.
        key: what tells one item from another.
        body: what is posted for rows (level, key).
        truth: all rows in their order.
        last: the key of the row that ends it.
    """

    path: Callable[[Running], str]
    event: str
    key: str
    headers: Callable[[Running], dict[str, str]]
    body: Callable[[list[Row]], dict[str, Any]]
    truth: Callable[[Running], list[Row]]
    last: Any


def _logs(server: Running) -> list[Row]:
    return rows_of(
        server.database, "SELECT level, message FROM log_entries ORDER BY headwater_change"
    )


def _metrics(server: Running) -> list[Row]:
    path = f"/api/satellites/{server.satellite_id}/metrics"
    body = server.api.get(path, params={"limit": 100}).json()
    found: list[Any] = body["metrics"]
    while body["has_more"]:
        params = {"limit": 100, "before": body["start"]}
        body = server.api.get(path, params=params).json()
        found = [*body["metrics"], *found]
    return [("", item["memory_mb"]) for item in found]


LOG = Feed(
    path=lambda server: "/api/logs",
    event="log",
    key="message",
    headers=lambda server: server.headers,
    body=lambda rows: {"entries": [{"level": level, "message": key} for level, key in rows]},
    truth=_logs,
    last="the end",
)
METRICS = Feed(
    path=lambda server: f"/api/satellites/{server.satellite_id}/metrics",
    event="metrics",
    key="memory_mb",
    headers=lambda server: server.satellite_headers,
    body=lambda rows: {
        "reports": [
            {"cpu_percent": 1, "memory_mb": key, "requests_per_s": 0, "errors_per_s": 0}
            for _, key in rows
        ]
    },
    truth=_metrics,
    last=1e9,
)


class Scenario:
    """Four writers, and streams that each leave and resume many times.

    Three writers post batches, whose rows have one timestamp; the fourth writes with plain SQL in
    another process, and also rolls back. On metrics, which no other program writes, all four post.

    Arguments:
        entries: how many are written in all.
        streams: how many streams are held to have been told all of them.
        leaves: how often each of them leaves.
        filtered: further streams, each with ``level=error``.
        port: where the next connection goes.
    """

    def __init__(
        self,
        server: Running,
        feed: Feed = LOG,
        *,
        entries: int,
        streams: int,
        leaves: int,
        filtered: int = 0,
        seed: int = 1,
        port: Callable[[], int] | None = None,
    ) -> None:
        self.server = server
        self.feed = feed
        self.shore = Shore()
        self._rng = random.Random(seed)
        self._each = entries // 4
        self._leaves = leaves
        self._port = port or (lambda: server.port)
        self.streams = [self._reader(entries) for _ in range(streams)]
        # A filter in front of the same order; these hold nobody up.
        self.filtered = [
            self._reader(entries // 6, "level=error", weight=lambda _: entries)
            for _ in range(filtered)
        ]
        self.pace = Pace(self.streams, lag=100)

    async def play(self) -> None:
        """To the end, then look at what everyone was told."""
        everyone = [*self.streams, *self.filtered]
        await asyncio.gather(*(reader.begin() for reader in everyone))
        async with asyncio.TaskGroup() as all_:
            for reader in everyone:
                all_.create_task(reader.follow())
            all_.create_task(self._write())
        await asyncio.to_thread(self._look)

    def _look(self) -> None:
        truth = self.feed.truth(self.server)
        keys = [key for _, key in truth]
        assert sorted(keys[:-1]) == sorted(self._key(number) for number in range(4 * self._each))
        for reader in self.streams:
            assert reader.items == keys
            assert reader.resumed >= self._leaves
        for reader in self.filtered:
            assert reader.items == [key for level, key in truth if level == "error"]
        # Nobody has anything to come.
        for reader in self.streams:
            path = self.feed.path(self.server)
            rest = self.server.api.get(path, params={"after": reader.id}).json()
            assert [value for value in rest.values() if isinstance(value, list)] == [[]]
            assert rest["has_more"] is False

    def _key(self, number: int) -> Any:
        return f"entry {number}" if self.feed is LOG else float(number)

    def _reader(self, items: int, query: str = "", **options: Any) -> Reader:
        return Reader(
            self._port,
            f"{self.feed.path(self.server)}?{query}",
            self.feed.event,
            self.server.headers,
            rng=random.Random(self._rng.random()),
            leaves=[self._rng.randrange(items) for _ in range(self._leaves)],
            key=self.feed.key,
            last=self.feed.last,
            shore=self.shore,
            **options,
        )

    def _batches(self, writer: int) -> list[list[Row]]:
        """One writer's rows, in batches of 1 to 40."""
        numbers = range(writer * self._each, (writer + 1) * self._each)
        rows = [(self._rng.choice(LEVELS), self._key(number)) for number in numbers]
        found = []
        while rows:
            size = self._rng.randint(1, 40)
            found.append(rows[:size])
            rows = rows[size:]
        return found

    async def _write(self) -> None:
        async with asyncio.TaskGroup() as writers:
            for writer in range(4):
                batches = self._batches(writer)
                work: Awaitable[None]
                if writer == 3 and self.feed is LOG:
                    server = self.server
                    work = plain_sql_writer(
                        server.database, server.user_id, batches, self.pace, self._rng
                    )
                else:
                    work = self._post(batches)
                writers.create_task(work)
        await self._post([[("error", self.feed.last)]])

    async def _post(self, batches: list[list[Row]]) -> None:
        def written(batch: list[Row]) -> int:
            there = {key for _, key in self.feed.truth(self.server)}
            return sum(key in there for _, key in batch)

        await write_all(
            batches,
            lambda: f"http://127.0.0.1:{self._port()}{self.feed.path(self.server)}",
            self.feed.headers(self.server),
            self.feed.body,
            written,
            self.pace,
            self.shore,
        )
