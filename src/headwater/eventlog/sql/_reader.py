"""Following topics of a SQL log: one task for all of them, on every database."""

from __future__ import annotations

import asyncio
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from headwater.errors import ResetReason
from headwater.eventlog._following import SHORTEST, FollowedTopic, LogReader
from headwater.eventlog._record import Bounds
from headwater.eventlog.sql._storage import Storage
from headwater.eventlog.sql._tables import bounds_of
from headwater.sql.reader import CommitWatch

# Rows per statement: big enough that a backlog is read fast, small enough to hold in memory.
ROWS = 500

# Least time between two reads, in seconds: under load one read covers several commits.
PACE = 0.005


class SqlReader(LogReader[FollowedTopic]):
    """Topics join between two reads, so that no record falls between bounds and first read."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.name)
        self._storage = storage
        self._names: str | None = None
        self._epoch = ""
        self._trims = 0

    @abstractmethod
    def _watch(self) -> CommitWatch:
        """Start what sets ``self._wake`` when something was committed."""

    @abstractmethod
    async def _states(self, topics: str) -> Sequence[sa.Row[Any]]:
        """Epoch, trims, head, and of each existing topic name, latest, trimmed.

        ``topics`` is a JSON list of names.
        """

    @abstractmethod
    async def _read(self) -> bool:
        """Deliver what is new. Returns True if there is more to read at once."""

    def _left(self, topic: str) -> None:  # noqa: ARG002 - all names are asked for again
        self._names = None
        if not self._topics:
            self._wake.set()

    async def _run(self) -> None:
        watch = self._watch()
        try:
            await super()._run()
        finally:
            await watch.stop()

    async def _read_on(self) -> None:
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
        rows = await self._states(json.dumps(sorted(names)))
        if not self._topics:
            self._read_from(rows[0])
        bounds = _bounds_by_name(rows, names)
        for name in names:
            if name not in self._topics:
                self._topics[name] = FollowedTopic(name, bounds[name].latest)
        self._names = None
        return bounds

    def _followed_names(self) -> str:
        """All followed topics as a JSON list."""
        if self._names is None:
            self._names = json.dumps(sorted(self._topics))
        return self._names

    def _read_from(self, row: sa.Row[Any]) -> None:
        """Let the next read begin at the moment of a row of ``_states``."""
        self._epoch, self._trims = row.epoch, row.trims

    async def _begin_anew(self) -> None:
        """Reset all followers: the storage is another one, or an older copy of itself."""
        rows = await self._states(self._followed_names())
        self._read_from(rows[0])
        self._reset("unknown", rows)

    async def _find_losses(self) -> None:
        """Something was trimmed since the last read: reset the followers that lost records."""
        rows = await self._states(self._followed_names())
        if rows[0].epoch == self._epoch:
            self._trims = rows[0].trims
            self._reset("expired", rows)

    def _reset(self, reason: ResetReason, rows: Sequence[sa.Row[Any]]) -> None:
        topics = tuple(self._topics.values())
        bounds = _bounds_by_name(rows, [topic.name for topic in topics])
        for topic in topics:
            topic.reset(reason, bounds[topic.name])


def _bounds_by_name(rows: Sequence[sa.Row[Any]], names: Sequence[str]) -> Mapping[str, Bounds]:
    """The bounds of topics from rows of ``_states``, which leave out those without events."""
    found = {row.name: bounds_of(row.epoch, row.latest, row.trimmed) for row in rows}
    return {name: found.get(name) or bounds_of(rows[0].epoch, None, None) for name in names}
