"""``Runs``: creates, follows, cancels and claims runs. Applications use this class."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from datetime import timedelta
from math import inf
from typing import Any, Self, get_args

from headwater.errors import RunCancelled, RunClaimError, SourceUnavailableError, UsageError
from headwater.eventlog import EventLog, KeyedTopic
from headwater.feeds._clock import utc_now
from headwater.runs._attempt import Attempt, Run, SyncRun, running_loop
from headwater.runs._core import Core
from headwater.runs._pulse import Pulse
from headwater.runs._records import RunEvent, RunState
from headwater.runs._store import Busy, Created, digest
from headwater.runs._tail import RunReader
from headwater.runs._watch import Timing
from headwater.runs._writer import INPUT_ENVELOPE, plain_json

_NAME = re.compile(r"[0-9A-Za-z_-]{1,40}")
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class Runs:
    """Pieces of work whose output is a stream that outlives request, connection and worker.

    Arguments:
        log: the event log that keeps the runs. Every process that starts, follows or produces them
            opens it.
        lease: seconds without a sign of life after which a process counts as dead, and its runs as
            lost.
        keep: how long a run is kept after its end.
        name: separates several ``Runs`` in one log: 1 to 40 characters of ``0-9 A-Z a-z _ -``.
        grace: seconds that a function has to clean up after its run was cancelled.
        start_within: how long a run may wait for a worker of a queue. Then it is lost.
        silence: seconds without an event after which a run counts as lost. None: no limit.

    Raises UsageError for a value out of range.
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
        if not isinstance(log, EventLog):
            raise UsageError(f"Runs({log!r}): write a log, as from open_log(...)")
        if not _NAME.fullmatch(name):
            raise UsageError(f"Runs(name={name[:60]!a}): 1 to 40 characters of 0-9 A-Z a-z _ -")
        for field, value in (("lease", lease), ("grace", grace), ("silence", silence)):
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < inf):
                raise UsageError(f"Runs({field}={value!r}): write seconds above 0")
        for field, span in (("keep", keep), ("start_within", start_within)):
            if not (isinstance(span, timedelta) and span > timedelta()):
                raise UsageError(f"Runs({field}={span!r}): write a time above 0")
        self.log = log
        self.name = name
        self._timing = Timing(lease, grace, keep, start_within, silence)
        self._pulse: Pulse | None = None
        self._cores: dict[asyncio.AbstractEventLoop, Core] = {}
        self._closed = False

    # Starting and following

    async def start(self) -> None:
        """Begin to watch for dead processes. The other methods do so at first use."""
        await self._watching()

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
        """Create a run. With a handler it starts in this process, else a worker claims it.

        Arguments:
            kind: a name for runs of one kind, such as the path of a route.
            owner: the id of the run's owner.
            input: a JSON value or a pydantic model, which the handler reads as ``run.input``.
            group: a name for runs that belong together, such as a conversation.
            busy: what happens while a run of the group is active. ``"reject"`` raises BusyError,
                ``"cancel"`` cancels the active run and begins after it, ``"queue"`` begins after
                it, ``"allow"`` begins at once.
            key: an idempotency key. The same key, kind and owner give the same run.
            hashed: a hash of the request. With the same key it must be the same.
            handler: ``async def`` or ``def``. It gets the run as its argument.
            start: ``async def`` or ``def``. It gets the run's id, and puts it into a queue. Not
                with a handler.

        Raises BusyError, KeyConflictError, UsageError and SourceUnavailableError.
        """
        _check_texts("create", kind=kind, owner=owner)
        _check_texts("create", group="" if group is None else group, key="" if key is None else key)
        if busy not in get_args(Busy):
            raise UsageError(f"create(busy={busy!r}): write 'reject', 'cancel', 'queue' or 'allow'")
        for field, function in (("handler", handler), ("start", start)):
            if not (function is None or callable(function)):
                raise UsageError(f"create({field}={function!r}): write a function")
        if handler is not None and start is not None:
            raise UsageError("create(): a run has a handler or start=, not both")
        instead = "store it elsewhere and give its address"
        plain, _ = plain_json(input, self.log, "create(): its input", instead, INPUT_ENVELOPE)
        core = self._core()
        if core.stopped:
            raise SourceUnavailableError("runs", "this server is being stopped", public=True)
        await core.watch.start()
        run_id = secrets.token_hex(16) if key is None else digest("key", kind, owner, key)
        if key is not None:
            known = await core.store.state(run_id)
            if known is not None:
                return Created.known(known, hashed)
        planned = RunState(run_id, kind, owner, "queued", utc_now(), group, plain)
        # A caller that leaves half-way must not leave a run that nobody produces.
        return await asyncio.shield(core.keep(core.create(planned, busy, hashed, handler, start)))

    async def state(self, run_id: str) -> RunState | None:
        """The present state of a run; None if it does not exist or was forgotten.

        This process watches all runs from then on, so it notices when their process dies.
        """
        _check_texts("state", run_id=run_id)
        core = await self._watching()
        return await core.store.state(run_id) if _ID.fullmatch(run_id) else None

    async def latest(self, kind: str, owner: str, group: str) -> RunState | None:
        """The latest run of a group, active or not; None if the group has no run.

        It serves clients that know only the id of their conversation.
        """
        _check_texts("latest", kind=kind, owner=owner, group=group)
        core = await self._watching()
        return await core.store.latest(kind, owner, group)

    async def cancel(self, run_id: str) -> RunState | None:
        """Cancel a run of any process. Returns its state before that; None if it is unknown.

        A queued run ends at once. A running one ends once its function has cleaned up.
        """
        _check_texts("cancel", run_id=run_id)
        core = await self._watching()
        return await core.cancel(run_id) if _ID.fullmatch(run_id) else None

    async def forget(self, run_id: str) -> bool:
        """Remove a run that has ended. False while it is active, or if it is unknown."""
        found = await self.state(run_id)
        if found is None or not found.ended:
            return False
        await self._core().store.forget([found])
        return True

    async def sweep(self) -> int:
        """Forget the runs that ended longer ago than ``keep``. Returns how many.

        Each process does this regularly by itself.
        """
        return await self._core().watch.sweep()

    def runs_of(self, kind: str, owner: str) -> KeyedTopic:
        """The runs of an owner as a source of a feed, keyed by ``id``."""
        _check_texts("runs_of", kind=kind, owner=owner)
        core = self._core()
        return KeyedTopic(core.log, core.store.owners_topic(kind, owner), key="id")

    async def follow(
        self, run_id: str, *, after: str | None = None
    ) -> AsyncGenerator[RunEvent, None]:
        """The events of a run, from its start or after a position, up to its ``end``.

        Past output comes in a few large pieces, new output as it is made. After the position of
        the ``end`` there are no events.

        Raises RunClaimError for an unknown run, PositionError for a position that cannot be
        resumed, and SourceUnavailableError.
        """
        _check_texts("follow", run_id=run_id, after="" if after is None else after)
        if await self.state(run_id) is None:
            raise RunClaimError(run_id, "unknown")
        reader = await self.reader(run_id, after=after)
        async with aclosing(reader.events()) as groups:
            async for events in groups:
                for event in events:
                    yield event

    async def reader(self, run_id: str, *, after: str | None = None) -> RunReader:
        """Returns the reader that ``follow`` uses. It gives events in groups.

        Of a run that does not exist it waits for the first event. Raises PositionError and
        SourceUnavailableError.
        """
        reader = self._core().reader(run_id)
        await reader.seek(after)
        return reader

    # Producing

    def attempt(self, run_id: str, *, retry: bool = False) -> AttemptContext:
        """Claim a queued run, for a worker of a queue.

        ``with`` gives a ``SyncRun``, ``async with`` a ``Run``. The run ends with the block, as
        ``done``. After an exception it is ``failed``, and the exception is raised again.

        Arguments:
            retry: set it if the queue tries again after an exception, and after this process has
                died. The run is then ``queued`` again, and does not end.

        Raises RunClaimError if the run is unknown, has ended, or another attempt has it, as after
        a second delivery of the queue.
        """
        _check_texts("attempt", run_id=run_id)
        return AttemptContext(self, run_id, retry=retry)

    # Ending

    async def stop(self) -> None:
        """End the runs that this event loop produces, as ``lost``, and take no new ones.

        Their functions have ``grace`` seconds to clean up.
        """
        core = self._cores.get(asyncio.get_running_loop())
        if core is not None:
            await core.stop()

    async def leave(self) -> None:
        """Call ``stop``, and end watching in this event loop. The log stays open. Idempotent."""
        loop = asyncio.get_running_loop()
        core = self._cores.get(loop)
        if core is not None:
            await core.close()  # after a caller that is cancelled here, another one can do it
            self._cores.pop(loop, None)

    async def close(self) -> None:
        """Call ``leave`` for all event loops of this process. Idempotent."""
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

    async def _watching(self) -> Core:
        """The core of the running event loop, which watches all runs from now on."""
        core = self._core()
        await core.watch.start()
        return core

    def _core(self, *, own: bool = False) -> Core:
        """The core of the running event loop, made at first use.

        With ``own`` it gets its own log, because another event loop may use the given one.
        """
        loop = asyncio.get_running_loop()
        core = self._cores.get(loop)
        if core is None:
            if self._closed:
                raise UsageError(f"runs {self.name!r} are closed: make new ones with Runs(log)")
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
            timing = self._timing
            self._pulse = Pulse(self.log, self.name, timing.lease, timing.silence)
        return self._pulse

    def run_elsewhere(self, work: Callable[[Core], Any]) -> Any:
        """Run a coroutine in the event loop of another thread, and wait for its result."""
        if running_loop() is not None:
            raise UsageError("an event loop runs in this thread: use `async with`")
        home = next((loop for loop in self._cores if loop.is_running()), None)
        if home is not None and not self.log.capabilities.multi_process:
            # Only that event loop may use this log.
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

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> bool:
        attempt = self._attempt
        assert attempt is not None
        task, attempt.task = attempt.task, None
        if task is not None and (attempt.cancelled or attempt.lost):
            if not isinstance(error, asyncio.CancelledError):
                # The block may have ended before the cancelling reached it.
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
            while task.uncancel() > 0:
                pass
        await attempt.leave(error)
        return self._is_settled(attempt, error)

    def __enter__(self) -> SyncRun:
        attempt: Attempt = self._runs.run_elsewhere(
            lambda core: core.claim(self._run_id, retry=self._retry)
        )
        attempt.sync = True
        self._attempt = attempt
        return SyncRun(attempt)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        attempt = self._attempt
        assert attempt is not None
        asyncio.run_coroutine_threadsafe(attempt.conclude(error), attempt.loop).result()
        return self._is_settled(attempt, error)

    def _is_settled(self, attempt: Attempt, error: BaseException | None) -> bool:
        """Whether the block's error only comes from the cancelling. Raises RunCancelled if lost."""
        if attempt.lost and not attempt.cancelled:
            raise RunCancelled(self._run_id, "lost") from error
        return attempt.cancelled and isinstance(error, (asyncio.CancelledError, RunCancelled))


def _check_texts(method: str, **given: object) -> None:
    """Raise UsageError for an argument that is no text, such as a run instead of its id."""
    for name, value in given.items():
        if not isinstance(value, str):
            raise UsageError(f"{method}({name}={value!r:.80}): write a str")
