"""Watches all runs: ends those whose worker is dead, and lets old ones be forgotten.

A worker is dead when this process has seen no beat of it for a lease, by its own monotonic clock.
While the log is away or this process is held up, at most half a lease of that time counts. So no
run is lost because the log was away, an event loop was blocked, a process was stopped for less than
a lease, or somebody set a clock.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from headwater.errors import SourceUnavailableError
from headwater.eventlog import START, Record
from headwater.eventlog._record import past
from headwater.feeds._clock import utc_now
from headwater.runs._pulse import Pulse
from headwater.runs._records import RunState, worker_of
from headwater.runs._store import PAGE, Store, in_parts
from headwater.runs._sweep import sweep
from headwater.runs._topic_reader import TopicReader

logger = logging.getLogger("headwater.runs")

# Checks in each lease, and the most that the time between two checks counts, as a part of a lease.
# With the latest possible beats before and after it, this is still less than a lease.
LOOKS, MOST = 10, 0.5
# Seconds between two checks, at least.
SOONEST = 0.02
# The runs of a worker that is silent for this part of a lease are read in advance, so that they can
# be ended soon after the lease.
READ_AFTER = 0.5
# How often a run is looked for that is announced and not there: once in a lease.
MISSING = 20
# Seconds between two sweeps, at most.
SWEEP = 60.0

LOST = "the process that produced this run died or was cut off"
NEVER = "no worker took this run in time"


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of runs: ``lease``, ``grace`` and ``silence`` in seconds."""

    lease: float
    grace: float
    keep: timedelta
    start_within: timedelta
    silence: float | None


@dataclass(slots=True)
class _Active:
    """An active run.

    Attributes:
        worker: the worker that has it; None while it waits for one.
        since: when this process learned that, by ``Watch._now``.
        claimed: whether that worker asked for it, and does not only hand it over to a queue.
        contested: whether several workers tried to claim it; the log must be read to find the one.
        cancelled: whether somebody cancelled it.
        read: its state, read when its worker had been silent for half a lease.
        missing: how often it was not there when its worker had been silent for a lease.
    """

    worker: str | None
    since: float
    claimed: bool = False
    contested: bool = False
    cancelled: bool = False
    read: RunState | None = None
    missing: int = 0


class Watch:
    """The watcher of one event loop. Follows ``news`` and ``beats``.

    Arguments:
        on_news: called in the event loop with each record of ``news``, some of them twice.
    """

    def __init__(
        self,
        store: Store,
        pulse: Pulse,
        timing: Timing,
        on_news: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._store = store
        self._pulse = pulse
        self._lease = timing.lease
        self._keep = timing.keep
        self._start_within = timing.start_within.total_seconds()
        self._on_news = on_news
        self._active: dict[str, _Active] = {}
        self._seen: dict[str, float] = {}
        self._every = min(timing.lease / LOOKS, 1.0)
        # How long this process has watched, in seconds, and when it looked last: see ``_now``.
        self._counted, self._looked = 0.0, time.monotonic()
        # When the next run may be lost, by ``_now``.
        self._due = 0.0
        self._news = TopicReader(store.log, store.news, self._take_news, self._lost_place)
        self._beats = TopicReader(store.log, store.beats, self._take_beats, self._lost_place)
        self._read_all = False
        # News that arrived while older news were read. They are heeded again afterwards, in order.
        self._meanwhile: list[Record] | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Lock()

    async def start(self) -> None:
        """Begin to watch. Idempotent. Raises SourceUnavailableError."""
        async with self._started:
            if self._task is None:
                await self._beats.start()
                try:
                    await self._news.start()
                except BaseException:
                    await self._beats.stop()
                    raise
                self._looked = time.monotonic()
                self._task = asyncio.create_task(self._run(), name="runs: watch")

    async def close(self) -> None:
        """End watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._news.stop()
            await self._beats.stop()
            self._task = None

    # News of runs

    def _take_news(self, records: Sequence[Record]) -> None:
        if self._meanwhile is not None:
            self._meanwhile += records
        for record in records:
            self._heed(record.data)

    def _heed(self, news: Mapping[str, Any]) -> None:
        """Note one record of ``news``, and pass it on. A later version may write others."""
        kind, run_id = news.get("t"), news.get("id")
        if not isinstance(kind, str) or not isinstance(run_id, str):
            return
        known = self._active.get(run_id)
        cancelled = known is not None and known.cancelled
        if kind == "end":
            self._active.pop(run_id, None)
        elif kind in ("new", "claim"):
            worker = news.get("w")
            contested = known is not None and known.worker not in (None, worker)
            self._active[run_id] = _Active(
                worker, self._now(), kind == "claim", contested, cancelled
            )
        elif kind in ("handed", "release") and news.get("by") == (known and known.worker):
            # A worker of the same process may claim a run before this news that its queue has it.
            if kind == "release" or known is None or not known.claimed:
                self._active[run_id] = _Active(None, self._now(), cancelled=cancelled)
        elif kind == "cancel" and known is not None:
            known.cancelled = True
        self._on_news(news)

    def _take_beats(self, records: Sequence[Record]) -> None:
        now = self._now()
        for record in records:
            self._seen[str(record.data.get("w"))] = now

    def _lost_place(self) -> None:
        self._read_all = True

    # Looking

    async def _run(self) -> None:
        self._read_all = True
        due = time.monotonic() + random.uniform(0.1, 1.0) * self._sweep_every
        while True:
            pause = self._every
            try:
                if not self._active and not self._read_all and time.monotonic() < due:
                    self._count()
                    await asyncio.sleep(self._every)
                    continue
                # Read all beats first, and only then count the log as answering: a process that
                # is behind in following would see the beats too late.
                await self._beats.catch_up()
                self._count()
                if self._read_all:
                    await self._read_news()
                await self._look()
                if not self._pulse.multi:
                    # A log of one process needs no beats, so no thread looks for silent runs.
                    await self._pulse.look_for_silence(self._store.log)
                if time.monotonic() > due:
                    await self.sweep()
                    due = time.monotonic() + random.uniform(0.8, 1.2) * self._sweep_every
                pause = max(min(pause, self._due - self._now()), SOONEST)
            except SourceUnavailableError as error:
                logger.info("runs cannot be watched now: %s", error)
            except Exception:
                logger.exception("watching runs failed")
            await asyncio.sleep(pause)

    def _now(self) -> float:
        """The seconds that this process has watched, by its monotonic clock.

        While the log is away, or this process is held up, it counts half a lease at most.
        """
        passed = time.monotonic() - self._looked
        return self._counted + min(passed, MOST * self._lease)

    def _count(self) -> None:
        """Note that the log has just answered."""
        self._counted, self._looked = self._now(), time.monotonic()

    @property
    def _sweep_every(self) -> float:
        return min(SWEEP, max(self._keep.total_seconds() / 4, 0.05))

    async def _read_news(self) -> None:
        """Find all active runs: read ``news`` from its beginning."""
        self._read_all = False
        self._meanwhile = []
        after = START
        try:
            while True:
                page = await self._store.log.read(self._store.news, after, PAGE)
                for record in page.records:
                    self._heed(record.data)
                    after = record.offset
                if len(page.records) < PAGE:
                    return
        except BaseException:
            self._read_all = True
            raise
        finally:
            for record in self._meanwhile:
                self._heed(record.data)
            self._meanwhile = None

    async def _look(self) -> None:
        for run_id, contested in tuple(self._active.items()):
            if contested.contested:
                await self._settle(run_id, contested)
        await self._read_silent()
        if not self._lost():
            return
        # A beat may be on its way, and another worker may have a run by now.
        await self._beats.catch_up()
        await self._news.catch_up()
        lost = [one for one in await _abreast(self._lose, self._lost()) if one is not None]
        # First announce the ends to all followers, then remove remains.
        for part in in_parts(lost):
            await self._store.announce(part)
            await self._store.remove_remains(part)
            for state in part:
                known = self._active.get(state.id)
                if known is not None and known.read is state:
                    del self._active[state.id]

    async def _read_silent(self) -> None:
        """Read the runs of silent workers in advance, before they count as lost."""
        silent: list[str] = []
        soonest = self._every
        for run_id, run in self._active.items():
            left = self._left(run_id, run)
            soonest = min(soonest, left)
            if run.worker is None or left > (1 - READ_AFTER) * self._lease:
                run.read = None
            elif run.read is None:
                silent.append(run_id)
        self._due = self._now() + soonest
        for run_id, state in zip(silent, await _abreast(self._store.state, silent), strict=True):
            if (known := self._active.get(run_id)) is not None:
                known.read = state

    def _lost(self) -> list[str]:
        """The runs that count as lost."""
        return [run_id for run_id, run in self._active.items() if self._left(run_id, run) < 0]

    async def _settle(self, run_id: str, run: _Active) -> None:
        """Read which worker has a contested run."""
        found = await self._store.state(run_id)
        if found is not None and found.state == "running" and self._active.get(run_id) is run:
            self._active[run_id] = _Active(worker_of(found.claim), run.since, claimed=True)

    def _left(self, run_id: str, run: _Active) -> float:
        """Seconds until a run counts as lost; below 0: it does."""
        now = self._now()
        if run.worker is None:
            return run.since + self._start_within - now
        if run.worker in self._pulse.dead:
            return -1.0
        if run.worker == self._pulse.worker and self._pulse.alive(run.worker):
            # No attempt may hold it: the log reported an error although it stored the creation.
            heard = now if self._pulse.holds(run_id) else run.since
        else:
            heard = max(self._seen.get(run.worker, 0.0), run.since)
        return heard + self._lease - now

    async def _lose(self, run_id: str) -> RunState | None:
        """End a run whose producer is lost. Returns it if that is to be announced."""
        known = self._active.get(run_id)
        if known is None:
            return None
        found = known.read
        if found is None or found.state != "running" or worker_of(found.claim) != known.worker:
            found = known.read = await self._store.state(run_id)
        if found is None:
            # It was forgotten; or its creation is not finished, and may be later.
            known.missing, known.since = known.missing + 1, self._now()
            if known.missing > MISSING:
                self._active.pop(run_id, None)
            return None
        worker = worker_of(found.claim) if found.state == "running" else known.worker
        if not found.ended and worker != known.worker:
            self._active[run_id] = _Active(
                worker, known.since, claimed=True, cancelled=known.cancelled
            )
            return None
        cancelled = found.cancelled or known.cancelled
        if found.retry and found.state == "running" and not cancelled:
            await self._store.release(found)
            if self._active.get(run_id) is known:
                self._active[run_id] = _Active(None, self._now())
            return None
        if cancelled:
            await self._store.decide(found, "cancelled")
        else:
            why = NEVER if known.worker is None else LOST
            await self._store.decide(found, "lost", error=why)
            if found.state == "lost":
                logger.warning("run %s is lost: %s", run_id, why)
        return found

    async def sweep(self) -> int:
        """Forget the runs that ended longer ago than ``keep``. Returns how many."""
        return await sweep(self._store, past(utc_now(), self._keep), self._news_of)

    def _news_of(self, run_id: str) -> Iterator[Mapping[str, Any]]:
        """The news that make another process know of an active run as this one does."""
        run = self._active.get(run_id)
        if run is None:
            return
        if run.worker is None:
            yield {"t": "handed", "by": None, "id": run_id}
        else:
            yield {"t": "claim" if run.claimed else "new", "w": run.worker, "id": run_id}
        if run.cancelled:
            yield {"t": "cancel", "id": run_id}


async def _abreast(
    call: Callable[[str], Awaitable[RunState | None]], run_ids: Sequence[str]
) -> list[RunState | None]:
    """Calls for each run, for ``ABREAST`` of them at the same time. Returns their results."""
    found = [await asyncio.gather(*map(call, part)) for part in in_parts(run_ids)]
    return [one for part in found for one in part]
