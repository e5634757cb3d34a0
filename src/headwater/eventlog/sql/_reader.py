"""Following topics of a SQL log: one task for all of them, on every database."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from headwater.eventlog._following import SHORTEST, FollowedTopic, LogReader
from headwater.eventlog._record import START, Bounds, Offset, mark_of
from headwater.eventlog.sql._storage import Storage
from headwater.eventlog.sql._tables import bounds_of, records_of
from headwater.sql._reader import CommitWatch

# Rows per statement: enough to read a backlog fast, few enough for the memory.
ROWS = 500

# Least time between two reads, in seconds: under load one read covers several commits.
PACE = 0.005


class SqlReader(LogReader[FollowedTopic]):
    """Topics join between two reads, so that no record falls between bounds and first read."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.name)
        self._storage = storage
        self._watching: CommitWatch | None = None
        self._names: str | None = None
        self._epoch = ""
        self._trims = 0

    @abstractmethod
    def _watch(self) -> CommitWatch:
        """Start a watch that sets ``self._wake`` when something was committed."""

    async def _states(self, places: Sequence[tuple[str, int]]) -> Sequence[sa.Row[Any]]:
        values = {"places": json.dumps(places)}
        return await self._storage.read(self._storage.dialect.states, values)

    @abstractmethod
    async def _read(self) -> bool:
        """Deliver what is new. Returns True if there is more to read now."""

    def _left(self, topic: str) -> None:  # all names are asked for again
        self._names = None
        if not self._topics:
            self._wake.set()

    async def _run(self) -> None:
        try:
            await super()._run()
        finally:
            watch, self._watching = self._watching, None
            if watch is not None:
                await watch.stop()

    async def _read_on(self) -> None:
        await self._storage.ready()
        if self._watching is None:
            self._watching = self._watch()
        time = asyncio.get_running_loop().time
        while self._topics or self._joining:
            self._wake.clear()
            begun = time()
            await self._join()
            more = bool(self._topics) and await self._read()
            self._delay = SHORTEST
            if not more and self._topics:
                await self._wake.wait()
                if not self._joining:
                    await asyncio.sleep(begun + PACE - time())

    async def _enter(self, names: Sequence[str]) -> Mapping[str, Bounds]:
        rows = await self._states([(name, 0) for name in sorted(names)])
        if not self._topics:
            self._read_from(rows[0])
        bounds = _bounds_by_name(rows, names)
        for name in names:
            if name not in self._topics:
                self._topics[name] = FollowedTopic(name, bounds[name].latest, bounds[name].mark)
        self._names = None
        return bounds

    def _followed_names(self) -> str:
        """All followed topics as a JSON list."""
        if self._names is None:
            self._names = json.dumps(sorted(self._topics))
        return self._names

    def _read_from(self, row: sa.Row[Any]) -> None:
        """Let the next read begin where this row of ``_states`` was read."""
        self._epoch, self._trims = row.epoch, row.trims

    async def _begin_anew(self) -> None:
        """Reset all followers: the storage is another one, or an older copy of itself."""
        rows = await self._states(self._places())
        self._read_from(rows[0])
        bounds = _bounds_by_name(rows, tuple(self._topics))
        for topic in tuple(self._topics.values()):
            topic.reset("unknown", bounds[topic.name])

    async def _find_losses(self, holes: Sequence[str] = ()) -> None:
        """Reset the followers of topics that do not continue where the followers stopped.

        ``holes`` are topics whose next events are not all there, because others removed some.
        """
        rows = await self._states(self._places())
        if rows[0].epoch != self._epoch:
            return  # the next read begins anew
        self._trims = rows[0].trims
        bounds = _bounds_by_name(rows, tuple(self._topics))
        found = {row.name: mark_of(row.place_at, row.place_size) or None for row in rows}
        for name, topic in tuple(self._topics.items()):
            if not topic.lost(bounds[name], found.get(name)) and name in holes:
                topic.reset("expired", bounds[name])

    async def _deliver_rows(self, fresh: Mapping[str, Sequence[sa.Row[Any]]]) -> None:
        """Deliver the next events of topics. Followers may have the first ones already."""
        for name, rows in fresh.items():
            topic = self._topics.get(name)
            known = [] if topic is None else [one for one in rows if one.number <= topic.last[0]]
            if topic is not None and known:
                end = (known[-1].number, mark_of(known[-1].at, known[-1].size))
                if end != (topic.last[0], topic.mark):
                    await self._find_losses()  # the topic began anew, or others joined meanwhile
                    break
        holes = []
        for name, rows in fresh.items():
            topic = self._topics.get(name)
            if topic is not None:
                news = [one for one in rows if one.number > topic.last[0]]
                if news and news[-1].number != topic.last[0] + len(news):
                    holes.append(name)
                else:
                    topic.deliver(records_of(name, news))
                    if news:
                        mark = mark_of(news[-1].at, news[-1].size)
                        topic.advance(Offset.of(news[-1].number), mark)
        if holes:
            await self._find_losses(holes)

    def _places(self) -> list[tuple[str, int]]:
        """All followed topics and where their followers are."""
        return [(topic.name, topic.last[0]) for topic in self._topics.values()]


def _bounds_by_name(rows: Sequence[sa.Row[Any]], names: Sequence[str]) -> Mapping[str, Bounds]:
    """The bounds of topics from rows of ``_states``, which leave out those without events."""
    found = {row.name: bounds_of(row) for row in rows if row.name is not None}
    return {name: found.get(name) or Bounds(rows[0].epoch, START, START) for name in names}
