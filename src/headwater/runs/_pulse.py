"""Beats: the signs of life that this process appends to the log while it produces runs.

A thread with its own event loop and connection sends the beats. So a process whose main event loop
is blocked does not count as dead. A busy process may keep that thread from running in time. Then
the next write of a run sends the beat first, because a process that can write is alive. If the
process cannot beat for a lease, it gives up its runs. All times are of the monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from headwater.errors import UsageError
from headwater.eventlog import EventLog
from headwater.runs._store import Store

logger = logging.getLogger("headwater.runs")

T = TypeVar("T")

# Beats in each lease, so that a few may be late or lost.
BEATS = 6
# A writer sends the beat when the last one is older than this part of a lease: then the thread has
# missed at least one.
LATE = 1 / 3
# The topic of beats is trimmed after every so many of them.
TRIM_EVERY = 50


class Holder(Protocol):
    """An attempt that this process beats for."""

    @property
    def run_id(self) -> str:
        """The run that it produces."""
        ...

    def silence(self) -> float:
        """Seconds since it sent something; 0 while its silence has no meaning."""
        ...

    def lose(self) -> None:
        """Stop it, because this process has lost its run. May be called in any thread."""
        ...


class Pulse:
    """Beats for the runs that one process produces.

    Arguments:
        log: the log of the runs. Beats are sent through a second log on the same storage
            (``log.another()``). A log of one process gets no beats, because no other process could
            read them.
        lease: seconds without a beat after which this process loses its runs.
        name: of the ``Runs``.
        silence: seconds without an event after which a run is lost, or None.

    Attributes:
        worker: the name under which this process claims runs. It changes whenever the process could
            not beat for a lease.
        dead: the earlier names.
        multi: whether other processes can use the log.
    """

    def __init__(
        self,
        log: EventLog,
        name: str,
        lease: float,
        silence: float | None,
    ) -> None:
        self.worker = secrets.token_hex(5)
        self.dead: set[str] = set()
        self.multi = log.capabilities.multi_process
        self._log = log
        self._name = name
        self._topic = Store(log, name).beats
        self._lease = lease
        self._silence = silence
        self._beaten_at = time.monotonic()
        self._every = lease / BEATS
        self._stand_in_at = 0.0
        self._holders: set[Holder] = set()
        # How many holders each run has. For a moment a repeated start makes a second one.
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._closed = False

    def hold(self, holder: Holder) -> str:
        """Beat for an attempt until ``release``. Returns the worker that it claims for.

        If this process cannot beat for a lease, it calls ``lose`` of the attempt.
        """
        with self._lock:
            is_first = not self._holders
            if is_first:
                self._beaten_at = time.monotonic()
            self._holders.add(holder)
            self._held[holder.run_id] += 1
        if self.multi:
            self._start()
            if is_first:
                self._nudge()
        return self.worker

    def release(self, holder: Holder) -> None:
        """Undo ``hold``."""
        with self._lock:
            if holder in self._holders:
                self._holders.discard(holder)
                self._held[holder.run_id] -= 1
                if not self._held[holder.run_id]:
                    del self._held[holder.run_id]

    def holds(self, run_id: str) -> bool:
        """Whether a run is being produced in this process."""
        return run_id in self._held

    async def look_for_silence(self, log: EventLog) -> None:
        """End the runs of this process that have sent nothing for too long."""
        if self._silence is None:
            return
        with self._lock:
            holders = tuple(self._holders)
        for holder in holders:
            if holder.silence() > self._silence:
                holder.lose()
                why = f"the run sent nothing for {self._silence:g} s"
                await Store(log, self._name).end(holder.run_id, "lost", error=why)

    def alive(self, worker: str) -> bool:
        """Whether this process may still write for this worker."""
        if not self.multi:
            return True
        if worker != self.worker:
            return False
        if time.monotonic() - self._beaten_at <= self._lease:
            return True
        self._lose()
        return False

    async def may_write(self, worker: str, log: EventLog) -> bool:
        """As ``alive``, for a writer, which sends a beat where the thread is late with it."""
        now = time.monotonic()
        late = now - self._beaten_at > LATE * self._lease and now > self._stand_in_at
        if late and self.multi and worker == self.worker:
            # One of many writers, once in the time of a beat.
            self._stand_in_at = now + self._every
            await self._beat(log)
        return self.alive(worker)

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the thread's event loop, for a caller without one."""
        self._start()
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._nudge()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _nudge(self) -> None:
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None and not loop.is_closed():
            loop.call_soon_threadsafe(wake.set)

    def _lose(self) -> None:
        """Lose all runs of this process, and use a new worker's name for the next ones."""
        with self._lock:
            if time.monotonic() - self._beaten_at <= self._lease:
                return
            holders, self._holders = self._holders, set()
            self._held.clear()
            self.dead.add(self.worker)
            self.worker = secrets.token_hex(5)
            self._beaten_at = time.monotonic()
        if holders:
            logger.error(
                "no beat could be stored for %g s: %d runs of this process are lost",
                self._lease, len(holders),
            )  # fmt: skip
        for holder in holders:
            holder.lose()

    def _start(self) -> None:
        with self._lock:
            if self._closed:
                raise UsageError("these runs are closed: make new ones with Runs(log)")
            if self._thread is not None:
                return
            ready = threading.Event()
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._main(ready)), name="headwater runs", daemon=True
            )
            self._thread.start()
        ready.wait()

    async def _main(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        ready.set()
        if not self.multi:
            while not self._closed:
                await self._pause(None)
            return
        try:
            log = self._log.another()
        except UsageError:
            logger.warning("beats cannot be sent: %s has no another()", self._log.name)
            raise
        every = self._every
        if self._silence is not None:
            every = min(every, self._silence / 2)
        beats = 0
        try:
            while not self._closed:
                if self._holders:
                    await self._beat(log)
                    await _warned(self.look_for_silence(log), "a silent run could not be ended")
                    beats += 1
                    if beats % TRIM_EVERY == 0:
                        old = log.trim(self._topic, max_age=timedelta(seconds=10 * self._lease))
                        await _warned(old, "old signs of life could not be removed")
                await self._pause(every)
        finally:
            await log.close()

    async def _beat(self, log: EventLog) -> None:
        began = time.monotonic()
        worker = self.worker
        try:
            async with asyncio.timeout(max(self._every, 1.0) * 2):
                await log.append(self._topic, {"w": worker})
        except Exception as error:
            logger.warning("a sign of life could not be stored: %s", error)
            self.alive(worker)
            return
        with self._lock:
            # A beat after the lease does not count: other processes may have ended the runs by now.
            if worker == self.worker and time.monotonic() - self._beaten_at <= self._lease:
                self._beaten_at = began
        self.alive(worker)

    async def _pause(self, seconds: float | None) -> None:
        """Wait so long, or until somebody calls ``_nudge``."""
        assert self._wake is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()


async def _warned(work: Awaitable[object], failed: str) -> None:
    """Wait for work that is done again later. Logs its error."""
    try:
        await work
    except Exception as error:
        logger.warning("%s: %s", failed, error)
