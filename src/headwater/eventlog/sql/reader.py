"""Following topics of a SQL log: one task for all of them, on every database."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from headwater.errors import ResetReason, SourceUnavailableError
from headwater.eventlog.interface import Follower
from headwater.eventlog.record import Bounds, Record
from headwater.eventlog.sql.storage import Storage
from headwater.eventlog.sql.tables import bounds_of

__all__ = ["ROWS", "Reader", "Watcher"]

_log = logging.getLogger(__name__)

# Rows per statement: big enough that a backlog is read fast, small enough to hold in memory.
ROWS = 500
# Back-off while the storage is away, in seconds: a restart takes less than the first few.
SHORTEST, LONGEST = 0.1, 5.0

# Least time between two reads, in seconds: under load one read takes in several commits.
PACE = 0.005


@dataclass(slots=True, eq=False)
class _Following:
    """One follower of a topic. ``number`` is the last it was told of."""

    follower: Follower
    number: int


class Watcher(Protocol):
    """What wakes a reader while it runs."""

    async def stop(self) -> None:
        """End it and free what it took."""
        ...


class Reader(ABC):
    """The one reader of a log in this process. Its task lives while anything is followed.

    Topics join between two of its reads, so that each follower's first record is the one after
    the bounds it was given; those that ask at the same time share one statement.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._topics: dict[str, list[_Following]] = {}
        self._joining: list[tuple[str, Follower, asyncio.Future[Bounds]]] = []
        self._named: str | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._epoch = ""
        self._trims = 0

    @abstractmethod
    def _watch(self) -> Watcher:
        """Start what sets ``self._wake`` when something was committed."""

    @abstractmethod
    async def _states(self, topics: str) -> Sequence[sa.Row[Any]]:
        """Epoch, trims, head, and of each topic that is there name, latest, trimmed.

        ``topics`` is a JSON list of names.
        """

    @abstractmethod
    async def _read(self) -> bool:
        """Hand over what is new; True if there is more to read at once."""

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        joined: asyncio.Future[Bounds] = asyncio.get_running_loop().create_future()
        self._joining.append((topic, follower, joined))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"{self._storage.name}: reader")
        self._wake.set()
        try:
            return await joined
        except asyncio.CancelledError:
            self.unfollow(topic, follower)
            raise

    def unfollow(self, topic: str, follower: Follower) -> None:
        for name, one, joined in self._joining:
            if name == topic and one is follower:
                joined.cancel()
        left = [one for one in self._topics.pop(topic, ()) if one.follower is not follower]
        if left:
            self._topics[topic] = left
        else:
            self._named = None
        if not self._topics:
            self._wake.set()  # the task looks whether it is still needed

    async def close(self) -> None:
        """Stop following; nothing is handed over once this returns."""
        self._topics.clear()
        for _, _, joined in self._joining:
            joined.cancel()
        self._joining.clear()
        self._wake.set()
        if self._task is not None:
            # It ends by itself: a read that is cancelled costs its connection.
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        delay = SHORTEST
        loop = asyncio.get_running_loop()
        watch = self._watch()
        try:
            while self._topics or self._joining:
                self._wake.clear()
                begun = loop.time()
                try:
                    await self._join()
                    more = bool(self._topics) and await self._read()
                except Exception as error:
                    self._away(error, first=delay == SHORTEST)
                    await self._pause(delay * random.uniform(0.5, 1.0))
                    delay = min(delay * 2, LONGEST)
                    continue
                delay = SHORTEST
                if not more and self._topics:
                    await self._wake.wait()
                    if not self._joining:
                        await asyncio.sleep(begun + PACE - loop.time())
        finally:
            self._task = None
            for _, _, joined in self._joining:
                joined.cancel()  # nothing but the end of the loop leaves any
            self._joining.clear()
            await watch.stop()

    def _away(self, error: Exception, *, first: bool) -> None:
        """Tell who waits to join; those who follow already just wait longer."""
        if not isinstance(error, SourceUnavailableError):
            _log.error("%s: reading failed", self._storage.name, exc_info=error)
        elif first and self._topics:
            _log.warning("%s; followers wait", error)
        for _, _, joined in self._joining:
            if not joined.done():
                joined.set_exception(error)
        self._joining.clear()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _join(self) -> None:
        """Let in who asked to follow."""
        asking = len(self._joining)
        if not asking:
            return
        names = {topic for topic, _, _ in self._joining}
        rows = await self._states(json.dumps(sorted(names)))
        joining, self._joining = self._joining[:asking], self._joining[asking:]
        if not self._topics:
            self._begin_after(rows[0])
        states = _by_name(rows)
        for topic, follower, joined in joining:
            if not joined.done():
                bounds = _bounds(rows, states.get(topic))
                following = _Following(follower, bounds.latest[0])
                self._topics.setdefault(topic, []).append(following)
                joined.set_result(bounds)
        self._named = None

    def _names(self) -> str:
        """All followed topics as a JSON list."""
        if self._named is None:
            self._named = json.dumps(sorted(self._topics))
        return self._named

    def _begin_after(self, row: sa.Row[Any]) -> None:
        """Read on from the moment of a row of ``_states``."""
        self._epoch, self._trims = row.epoch, row.trims

    def _hand_over(self, topic: str, records: Sequence[Record]) -> None:
        for one in tuple(self._topics.get(topic, ())):
            news = [record for record in records if record.offset[0] > one.number]
            if news:
                one.number = news[-1].offset[0]
                _tell(topic, one.follower.deliver, news)

    async def _begin_anew(self) -> None:
        """The storage is another one, or an older copy of itself."""
        rows = await self._states(self._names())
        self._begin_after(rows[0])
        self._reset("unknown", rows)

    async def _look_for_losses(self) -> None:
        """Something was trimmed since the last read: find the followers that it overtook."""
        rows = await self._states(self._names())
        if rows[0].epoch == self._epoch:
            self._trims = rows[0].trims
            self._reset("expired", rows)

    def _reset(self, reason: ResetReason, rows: Sequence[sa.Row[Any]]) -> None:
        """Tell every follower (``unknown``), or those that lost records (``expired``)."""
        states = _by_name(rows)
        for topic, followings in tuple(self._topics.items()):
            bounds = _bounds(rows, states.get(topic))
            for one in tuple(followings):
                if reason == "unknown" or bounds.earliest[0] > one.number:
                    one.number = bounds.latest[0]
                    _tell(topic, one.follower.reset, reason, bounds)


def _by_name(rows: Sequence[sa.Row[Any]]) -> Mapping[str, sa.Row[Any]]:
    return {row.name: row for row in rows if row.name is not None}


def _bounds(rows: Sequence[sa.Row[Any]], state: sa.Row[Any] | None) -> Bounds:
    if state is None:
        return bounds_of(rows[0].epoch, None, None)
    return bounds_of(state.epoch, state.latest, state.trimmed)


def _tell(topic: str, say: Callable[..., None], *what: object) -> None:
    try:
        say(*what)
    except Exception:
        _log.exception("a follower of topic %s failed", topic)
