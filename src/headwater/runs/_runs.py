"""``Runs``: the public face."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from headwater.errors import RunCancelled, RunClaimError, SourceUnavailableError, UsageError
from headwater.eventlog import EventLog, KeyedTopic
from headwater.runs._attempt import Attempt, Run, SyncRun
from headwater.runs._core import Core, Timing, Wanted
from headwater.runs._pulse import Pulse
from headwater.runs._records import RunEvent, RunState
from headwater.runs._store import Busy, Created, Store, digest
from headwater.runs._tail import RunReader

__all__ = ["AttemptContext", "Runs"]

_NAME = re.compile(r"[0-9A-Za-z_-]{1,40}")
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Runs:
    """Pieces of work whose output is a stream that outlives request, connection and worker.

    Arguments:
        log: where they are kept. Every process that starts, follows or produces them opens it.
        lease: seconds without a sign of life after which a producer counts as dead.
        keep: how long a run is kept after its end.
        name: of these runs, where one log holds several.
        grace: seconds that a producer has to clean up after it was cancelled.
        start_within: how long a run may wait for a worker of a queue.
        silence: seconds without an event after which a run counts as lost; None: any time.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        lease: float = 30.0,
        keep: timedelta = timedelta(days=1),
        name: str = "runs",
        grace: float = 10.0,
        start_within: timedelta = timedelta(hours=1),
        silence: float | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise UsageError(f"Runs(name={name[:60]!a}): 1 to 40 characters of 0-9 A-Z a-z _ -")
        for field, value in (("lease", lease), ("grace", grace), ("silence", silence)):
            if value is not None and not value > 0:
                raise UsageError(f"Runs({field}={value!r}): seconds above 0 are needed")
        for field, span in (("keep", keep), ("start_within", start_within)):
            if not span > timedelta():
                raise UsageError(f"Runs({field}={span!r}): a time above 0 is needed")
        self.log = log
        self.name = name
        self._timing = Timing(lease, grace, keep, start_within, silence)
        self._pulse: Pulse | None = None
        self._cores: dict[asyncio.AbstractEventLoop, Core] = {}
        self._home: asyncio.AbstractEventLoop | None = None
        self._closed = False

    # Starting and following

    async def start(self) -> None:
        """Begin to watch the runs. The other methods do so at first use."""
        await self._core().start()

    async def create(
        self,
        kind: str,
        owner: str,
        *,
        input: Any = None,
        group: str | None = None,
        busy: Busy = "allow",
        key: str | None = None,
        hashed: str = "",
        handler: Callable[[Any], Any] | None = None,
        start: Callable[[str], Any] | None = None,
    ) -> Created:
        """Create a run, and start it here if there is a handler; else an attempt claims it.

        Arguments:
            kind: which runs it is of; a route's path.
            owner: whose it is.
            input: a JSON value that the producer reads as ``run.input``.
            group: at most one run of a group is active, by ``busy``.
            key: a key of idempotency of this owner and kind: the same one gives the same run.
            hashed: of what the run is asked to do: with the same key it must be the same.
            handler: ``async def`` or ``def``, called with the run.
            start: called with the run's id, to give it to a queue; ``async def`` or ``def``.

        Raises BusyError, KeyConflictError, UsageError and SourceUnavailableError.
        """
        core = self._core()
        if core.stopped:
            raise SourceUnavailableError("runs", "this server is being stopped", public=True)
        await core.start()
        run_id = secrets.token_hex(16) if key is None else digest("key", kind, owner, key)
        if key is not None:
            known = await core.store.state(run_id)
            if known is not None:
                return Created.known(known, hashed)
        wanted = Wanted(run_id, kind, owner, input, group, busy, hashed, handler, start)
        # A caller that leaves half-way must not leave a run that nobody produces.
        return await asyncio.shield(core.create(wanted))

    async def state(self, run_id: str) -> RunState | None:
        """A run as it is; None for one that does not exist or was forgotten.

        Watching begins with it, so that a producer that has died is noticed.
        """
        core = self._core()
        await core.start()
        return await core.store.state(run_id) if _ID.fullmatch(run_id) else None

    async def latest(self, kind: str, owner: str, group: str) -> RunState | None:
        """The run of a group that began last, whether or not it has ended; None for none.

        For clients that know their conversation only: is something active in it?
        """
        core = self._core()
        await core.start()
        return await core.store.latest(kind, owner, group)

    async def cancel(self, run_id: str) -> RunState | None:
        """Cancel a run, in whichever process it is. Returns it as it was; None if it is unknown.

        A queued run ends at once. A running one ends once its code has cleaned up.
        """
        core = self._core()
        await core.start()
        return await core.cancel(run_id) if _ID.fullmatch(run_id) else None

    async def forget(self, run_id: str) -> bool:
        """Remove a run that has ended. False while it is active, or if it is unknown."""
        found = await self.state(run_id)
        if found is None or not found.ended:
            return False
        await self._core().store.forget([found])
        return True

    async def sweep(self) -> int:
        """Forget what ended longer ago than ``keep``; every process does so by itself."""
        return await self._core().watch.sweep()

    def runs_of(self, kind: str, owner: str) -> KeyedTopic:
        """The runs of an owner as a source of a feed, keyed by ``id``."""
        core = self._core()
        return KeyedTopic(core.log, core.store.owners_topic(kind, owner), key="id")

    async def follow(
        self, run_id: str, *, after: str | None = None
    ) -> AsyncGenerator[RunEvent, None]:
        """The events of a run, from its start or after a position, up to its ``end``.

        Past output comes in few large pieces, new output as it is made. Nothing comes after the
        position of the ``end``. Raises RunClaimError for an unknown run, PositionError for a
        position that cannot be resumed, and SourceUnavailableError.
        """
        if await self.state(run_id) is None:
            raise RunClaimError(run_id, "unknown")
        reader = await self.reader(run_id, after=after)
        async with aclosing(reader.events()) as groups:
            async for events in groups:
                for event in events:
                    yield event

    async def reader(self, run_id: str, *, after: str | None = None) -> RunReader:
        """What ``follow`` reads by: events in groups, for those that frame them themselves."""
        reader = self._core().reader(run_id)
        await reader.seek(after)
        return reader

    # Producing

    def attempt(self, run_id: str, *, retry: bool = False) -> AttemptContext:
        """Claim a queued run, for a worker of a queue.

        ``with`` gives a ``SyncRun``, ``async with`` a ``Run``. The run ends with the block: as
        ``done``, or as ``failed`` by an exception, which goes on. Raises RunClaimError: a second
        delivery is refused.

        Arguments:
            retry: the queue tries again after an exception, and after this process has died. The
                run is then ``queued`` again rather than over.
        """
        return AttemptContext(self, run_id, retry=retry)

    # Ending

    async def stop(self) -> None:
        """End what this event loop produces, as ``lost``, after its grace. It takes no new runs."""
        core = self._cores.get(asyncio.get_running_loop())
        if core is not None:
            await core.stop()

    async def leave(self) -> None:
        """Stop, and watch and follow no more in this event loop. The log stays open. Idempotent."""
        core = self._cores.pop(asyncio.get_running_loop(), None)
        if core is not None:
            await core.close()

    async def close(self) -> None:
        """The same for all threads of this process. Idempotent."""
        self._closed = True
        await self.leave()
        for loop, core in tuple(self._cores.items()):
            if loop.is_running():
                future = asyncio.run_coroutine_threadsafe(core.close(), loop)
                await asyncio.wrap_future(future)
        self._cores.clear()
        if self._pulse is not None:
            await asyncio.to_thread(self._pulse.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _core(self, *, own: bool = False) -> Core:
        """What the running event loop has of these runs.

        With ``own`` it gets a log of its own: the given one may be in use in another event loop.
        """
        loop = asyncio.get_running_loop()
        core = self._cores.get(loop)
        if core is None:
            if self._closed:
                raise UsageError(f"runs {self.name!r} are closed")
            for old in [one for one in self._cores if one.is_closed()]:
                del self._cores[old]
            own = own and self.log.capabilities.multi_process
            own = own or any(core.log is self.log for core in self._cores.values())
            log = self.log.another() if own else self.log
            core = Core(log, self.name, self._beating(), self._timing, owns_log=own)
            self._cores[loop] = core
        return core

    def _beating(self) -> Pulse:
        if self._pulse is None:
            silence = self._timing.silence

            async def end(log: EventLog, run_id: str) -> None:
                why = f"it sent nothing for {silence:g} s"
                await Store(log, self.name).end(run_id, "lost", error=why)

            beats = Store(self.log, self.name).beats
            self._pulse = Pulse(self.log, beats, self._timing.lease, silence, end)
        return self._pulse

    def run_elsewhere(self, work: Callable[[Core], Any]) -> Any:
        """Run something in an event loop of another thread, for code that has none."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise UsageError("an event loop runs in this thread: use `async with`")
        home = next((loop for loop in self._cores if loop.is_running()), None)
        if home is not None and not self.log.capabilities.multi_process:
            # Nobody else may touch this log.
            return asyncio.run_coroutine_threadsafe(self._with_core(work), home).result()
        return self._beating().run(self._with_core(work)).result()

    async def _with_core(self, work: Callable[[Core], Any]) -> Any:
        return await work(self._core(own=True))


class AttemptContext:
    """One attempt at a run, for ``with`` and ``async with``. Made by ``runs.attempt``."""

    def __init__(self, runs: Runs, run_id: str, *, retry: bool) -> None:
        self._runs = runs
        self._run_id = run_id
        self._retry = retry
        self._attempt: Attempt | None = None

    async def __aenter__(self) -> Run:
        attempt = await self._runs._core().claim(self._run_id, retry=self._retry)
        attempt.task = asyncio.current_task()
        self._attempt = attempt
        if attempt.cancelled:
            assert attempt.task is not None
            attempt.task.cancel()
        return Run(attempt)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        attempt = self._attempt
        assert attempt is not None
        task, attempt.task = attempt.task, None
        ours = attempt.cancelled or attempt.lost
        if ours and task is not None and isinstance(error, asyncio.CancelledError):
            while task.uncancel() > 0:
                pass
        await attempt.conclude(error)
        return self._is_settled(attempt, error)

    def __enter__(self) -> SyncRun:
        attempt: Attempt = self._runs.run_elsewhere(
            lambda core: core.claim(self._run_id, retry=self._retry)
        )
        attempt.sync = True
        self._attempt = attempt
        return SyncRun(attempt)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        attempt = self._attempt
        assert attempt is not None
        asyncio.run_coroutine_threadsafe(attempt.conclude(error), attempt.loop).result()
        return self._is_settled(attempt, error)

    def _is_settled(self, attempt: Attempt, error: BaseException | None) -> bool:
        """Whether the block's error is what cancelling it came to. Raises RunCancelled if lost."""
        if attempt.lost and not attempt.cancelled:
            raise RunCancelled(self._run_id, "lost") from error
        return attempt.cancelled and isinstance(error, (asyncio.CancelledError, RunCancelled))
