"""The part of ``Runs`` that belongs to one event loop: it produces, follows and watches runs.

A process may use the same ``Runs`` in several event loops, and each of them needs its own tasks.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from headwater.errors import (
    PositionError,
    RunCancelled,
    RunClaimError,
    RunFailed,
    SourceUnavailableError,
    UsageError,
)
from headwater.eventlog import EventLog
from headwater.runs._attempt import Attempt, Run, SyncRun
from headwater.runs._pulse import Pulse
from headwater.runs._records import RunState
from headwater.runs._store import Busy, Created, Store
from headwater.runs._tail import RunReader, Tails
from headwater.runs._threads import Threads
from headwater.runs._watch import Timing, Watch

logger = logging.getLogger("headwater.runs")

# A function of the user, ``async def`` or ``def``: a handler takes the run, ``start`` takes its id.
Function = Callable[[Any], Any]

T = TypeVar("T")

# Seconds between tries while the log is away.
AGAIN = 0.25

# How many plain functions run at the same time. Further ones wait for a thread.
THREADS = 64


class Core:
    """The runs of one event loop.

    Arguments:
        log: the event log as this event loop uses it.
        owns_log: whether ``close`` closes the log, because nobody else uses it.
    """

    def __init__(
        self, log: EventLog, name: str, pulse: Pulse, timing: Timing, *, owns_log: bool
    ) -> None:
        self.log = log
        self._owns_log = owns_log
        self.store = Store(log, name)
        self.tails = Tails(self.store)
        self.pulse = pulse
        self.timing = timing
        self.loop = asyncio.get_running_loop()
        # The attempts of this loop that are not over, by run.
        self._attempts: dict[str, list[Attempt]] = {}
        self.stopped = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads = Threads(THREADS)
        self.watch = Watch(self.store, pulse, timing, self._on_news)

    def reader(self, run_id: str) -> RunReader:
        """Returns a reader of a run. Its caller must ``seek`` first."""
        return RunReader(self.store, self.tails, run_id)

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task of its own."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """As ``keep``. Logs the error of the coroutine."""
        task = self.keep(work)
        task.add_done_callback(_log_error)
        return task

    def _on_news(self, news: Mapping[str, Any]) -> None:
        run_id, kind = news["id"], news["t"]
        for attempt in tuple(self._attempts.get(run_id, ())):
            if kind == "cancel":
                attempt.cancel()
            elif kind == "end" or (
                kind == "release" and attempt.begun and news.get("c") == attempt.state.claim
            ):
                attempt.lose()

    # Producing

    @contextmanager
    def _prepared(self, state: RunState) -> Iterator[Attempt]:
        """Make an attempt, for which this process beats from now on.

        The attempt already gets the news of its run while it claims the run, because somebody may
        cancel the run before the log has answered.
        """
        attempt = Attempt(
            self.store,
            self.pulse,
            state,
            grace=self.timing.grace,
            background=self.background,
            on_over=self._remove,
        )
        self._attempts.setdefault(state.id, []).append(attempt)
        try:
            yield attempt
        except BaseException:
            attempt.over()
            raise
        attempt.claiming = False

    def _remove(self, attempt: Attempt) -> None:
        """Deliver no more news to an attempt, because it is over."""
        others = self._attempts[attempt.run_id]
        others.remove(attempt)
        if not others:
            del self._attempts[attempt.run_id]

    def _produced(self, run_id: str) -> list[Attempt]:
        """The attempt of this loop that has the run, if there is one."""
        return [one for one in self._attempts.get(run_id, ()) if not one.claiming]

    async def create(
        self,
        planned: RunState,
        busy: Busy,
        hashed: str,
        handler: Function | None,
        start: Function | None,
    ) -> Created:
        """Create a run, and produce it here or give it to its queue."""
        with self._prepared(planned) as attempt:
            created = await self.store.create(
                planned, busy, hashed, attempt.worker, claimed=handler is not None
            )
            if not created.is_new:
                attempt.over()
                return created
            attempt.state = created.state
        if created.after is not None and busy == "cancel":
            self.background(self._patiently(partial(self.cancel, created.after)))
        handing: Awaitable[object] | None = None
        if handler is not None:
            self.launch(created, attempt, handler)
        else:
            handing = self.background(self.hand_over(created, attempt, start))
        await self._list(created.state)
        if handing is not None and created.after is None:
            await handing
        return created

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Returns what the call returns, once the log answers it."""
        while True:
            try:
                return await call()
            except SourceUnavailableError as error:
                logger.info("a run waits for the log: %s", error)
                await asyncio.sleep(AGAIN)

    async def _list(self, state: RunState) -> None:
        """Update a run in its owner's list. A later update corrects one that fails."""
        try:
            await self.store.list(state)
        except SourceUnavailableError as error:
            logger.warning("run %s is not listed yet: %s", state.id, error)

    async def cancel(self, run_id: str) -> RunState | None:
        """Cancel a run. Returns its state before that; None if it is unknown."""
        found = await self.store.state(run_id)
        if found is None or found.ended:
            return found
        await self.store.cancel(run_id)
        if found.state == "queued":
            await self.store.end(run_id, "cancelled")
        return found

    def launch(self, created: Created, attempt: Attempt, handler: Function) -> None:
        """Run a handler in this process, once the run's turn has come."""
        # Of an object that is called like a function, too.
        both = (handler, type(handler).__call__)
        attempt.sync = not any(map(inspect.iscoroutinefunction, both))
        if created.state.claim is not None:
            attempt.begin(created.state.claim)
        attempt.task = self.background(self._produce(created, attempt, handler))
        attempt.task.add_done_callback(lambda _: self._conclude(attempt))
        if attempt.cancelled or attempt.lost:
            attempt.task.cancel()

    def _conclude(self, attempt: Attempt) -> None:
        """End a run whose task was cancelled before its first step."""
        if not attempt.done.is_set():
            self.background(attempt.conclude(asyncio.CancelledError()))

    async def hand_over(self, created: Created, attempt: Attempt, start: Function | None) -> None:
        """Give a run to a queue once its turn has come. Raises SourceUnavailableError."""
        run_id = created.state.id
        try:
            has_turn = await self._patiently(partial(self._has_turn, created))
            if start is not None and has_turn:
                if inspect.iscoroutinefunction(start):
                    await start(run_id)
                else:
                    given = await asyncio.to_thread(start, run_id)
                    if inspect.isawaitable(given):
                        await given
        except SourceUnavailableError:
            raise
        except Exception as error:
            await self.store.end(run_id, "failed", error="its queue did not take the run")
            raise SourceUnavailableError("the queue of runs", repr(error)) from error
        else:
            handed = {"t": "handed", "id": run_id, "by": attempt.worker}
            await self._patiently(partial(self.store.notify, handed))
        finally:
            attempt.over()

    async def _produce(self, created: Created, attempt: Attempt, handler: Function) -> None:
        task = asyncio.current_task()
        assert task is not None
        value: Any = None
        error: BaseException | None = None
        try:
            if not attempt.begun:
                claim = await self._claim_in_turn(created, attempt)
                if claim is None:
                    attempt.over()
                    return
                attempt.begin(claim)
                await self._list(attempt.state)
            if attempt.sync:
                value = await self._threads.run(lambda: handler(SyncRun(attempt)))
                if inspect.iscoroutine(value):
                    value.close()
                    raise UsageError(
                        "the function of a run only calls a coroutine function: give that itself"
                    )
            else:
                value = await handler(Run(attempt))
        except (RunCancelled, RunFailed) as stopped:
            error = stopped
        except KeyboardInterrupt:
            raise
        except BaseException as fault:
            # A CancelledError may also come from something else that the function waited for.
            if isinstance(fault, asyncio.CancelledError) and task.cancelling():
                while task.uncancel() > 0:
                    pass
                error = fault
            else:
                logger.exception("run %s failed", attempt.state.id)
                # One run must not end the process with all others.
                error = fault if isinstance(fault, Exception) else RuntimeError(repr(fault))
        await attempt.conclude(error, value)

    async def _claim_in_turn(self, created: Created, attempt: Attempt) -> str | None:
        """Claim a run once its turn has come. Returns the claim; None if the run has ended."""
        nonce = secrets.token_hex(8)

        async def claim() -> str | None:
            claim = await self.store.claim(attempt.state, attempt.worker, nonce)
            return None if claim is None or await self.is_over(created.state.id) else claim

        await self._patiently(partial(self._has_turn, created))
        return await self._patiently(claim)

    async def _has_turn(self, created: Created) -> bool:
        """Wait until a run's turn has come. False if it has ended before that."""
        await self._wait_for(created.after)
        return not await self.is_over(created.state.id)

    async def _wait_for(self, run_id: str | None) -> None:
        """Wait until a run has ended, and the runs that it waited for itself."""
        while run_id is not None:
            found = await self.store.state(run_id)
            if found is None:
                return
            if not found.ended:
                reader = self.reader(run_id)
                await reader.seek(None)
                async with aclosing(reader.events()) as groups:
                    with suppress(PositionError):  # it was forgotten as soon as it had ended
                        async for _ in groups:
                            pass
                found = await self.store.state(run_id) or found
            # A run that was claimed has waited for the one before it.
            run_id = found.first.get("after") if found.claim is None else None

    async def is_over(self, run_id: str) -> bool:
        """Whether a run has ended, or was forgotten."""
        found = await self.store.state(run_id)
        return found is None or found.ended

    async def claim(self, run_id: str, *, retry: bool) -> Attempt:
        """Claim a queued run. Raises RunClaimError."""
        await self.watch.start()
        found = await self.store.state(run_id)
        if found is None:
            raise RunClaimError(run_id, "unknown")
        if found.ended:
            raise RunClaimError(run_id, "ended")
        # An attempt that only hands the run over to a queue does not have it.
        if found.state != "queued" or any(one.task or one.begun for one in self._produced(run_id)):
            raise RunClaimError(run_id, "running")
        with self._prepared(found) as attempt:
            nonce = secrets.token_hex(8)
            claim = await self.store.claim(found, attempt.worker, nonce, retry=retry)
            if claim is None:
                raise RunClaimError(run_id, "running")
            if attempt.lost or await self.is_over(run_id):
                raise RunClaimError(run_id, "ended")
            attempt.retry = retry
            attempt.begin(claim)
        self.background(self._list(found))
        if found.cancelled:
            attempt.cancel()
        return attempt

    # Ending

    async def stop(self) -> None:
        """Cancel the runs that this loop produces, and end them as lost."""
        self.stopped = True
        attempts = [one for run_id in self._attempts for one in self._produced(run_id)]
        for attempt in attempts:
            attempt.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.timing.grace):
                for attempt in attempts:
                    await attempt.done.wait()
        for attempt in attempts:
            if not attempt.done.is_set():
                await attempt.conclude(asyncio.CancelledError())

    async def close(self) -> None:
        """Stop, and watch no more. Closes the log if this core owns it."""
        await self.stop()
        await self.watch.close()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        if self._owns_log:
            await self.log.close()


def _log_error(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("work on a run failed", exc_info=error)
