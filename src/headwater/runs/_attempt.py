"""One attempt to produce a run, and the objects through which a function writes to it.

A coroutine gets a ``Run``, a plain function in a thread a ``SyncRun``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Literal

from headwater.errors import RunCancelled, RunFailed, UsageError
from headwater.runs._pulse import Pulse
from headwater.runs._records import RunState, State
from headwater.runs._store import Store
from headwater.runs._writer import Writer, plain_json, stored

logger = logging.getLogger("headwater.runs")

# Names of events that Headwater itself sends in the stream of a run, or that browsers reserve.
RESERVED = frozenset(
    {"run", "delta", "restart", "reset", "end", "error", "message", "open", "snapshot"}
)
_NAME = re.compile(r"[A-Za-z][0-9A-Za-z_.:-]{0,99}")

STOPPED = "the process that produced this run was stopped"


class Attempt:
    """One try to produce a run, in one event loop.

    Arguments:
        grace: seconds that the function has to clean up after it was cancelled.
        background: starts a coroutine as a task, and keeps a reference to it.
        on_over: called once this attempt is over.

    Attributes:
        claiming: whether the log has not answered yet if this attempt has the run.
        state: the run as it was when it was claimed.
        cancelled: whether somebody cancelled the run.
        lost: whether this process has lost the run, so that it may store nothing more.
        done: set once this attempt stores nothing more.
        touched_at: when the function sent something last, by the monotonic clock.
    """

    def __init__(
        self,
        store: Store,
        pulse: Pulse,
        state: RunState,
        *,
        grace: float,
        background: Callable[[Coroutine[Any, Any, None]], asyncio.Future[None]],
        on_over: Callable[[Attempt], None],
    ) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.claiming = True
        self.cancelled = self.lost = False
        self.done = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None
        self.sync = False
        self.retry = False
        self.touched_at = time.monotonic()
        self.result: Any = None
        self._store = store
        self._pulse = pulse
        self._grace = grace
        self._background = background
        self._on_over = on_over
        self._writer: Writer | None = None
        self._finishing = False
        self._overdue: asyncio.TimerHandle | None = None
        self.worker = pulse.hold(self)
        self._may_write = partial(pulse.may_write, self.worker, store.log)

    @property
    def run_id(self) -> str:
        """The run that it produces."""
        return self.state.id

    def silence(self) -> float:
        """Seconds since the function sent something; 0 before it began and while it ends."""
        if not self.begun or self._finishing:
            return 0.0
        return time.monotonic() - self.touched_at

    def begin(self, claim: str) -> None:
        """Note that the run was claimed. From now on events may be stored."""
        self.state.claim, self.state.state = claim, "running"
        self.touched_at = time.monotonic()
        self._writer = Writer(
            self._store.log,
            self._store.topic(self.state.id),
            self.state.id,
            claim,
            self._may_write,
        )

    @property
    def begun(self) -> bool:
        """Whether the run was claimed."""
        return self._writer is not None

    @property
    def writer(self) -> Writer:
        """The writer of the events.

        Raises RunCancelled if the function must stop, and UsageError in another event loop.
        """
        if running_loop() is not self.loop:
            raise UsageError(
                f"run {self.run_id} is used in another event loop than its own: "
                "give a plain function a SyncRun, or use asyncio.run_coroutine_threadsafe"
            )
        self.touched_at = time.monotonic()
        if self._writer is None or self.lost:
            raise RunCancelled(self.state.id, "lost")
        if self.cancelled and self.sync:
            raise RunCancelled(self.state.id, "cancelled")
        return self._writer

    def cancel(self) -> None:
        """Cancel the function. It has ``grace`` seconds to clean up."""
        if self.cancelled or self._finishing:
            return
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()
        self._overdue = self.loop.call_later(self._grace, self._cut)

    def lose(self) -> None:
        """Stop at once, and store nothing more. May be called in any thread."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._lose)

    def _lose(self) -> None:
        if self.lost or self._finishing or self.done.is_set():
            return
        self.lost = True
        self._close("lost")
        if self.task is not None:
            self.task.cancel()
        if self.task is None and not self.sync:
            self.over()

    def stop(self) -> None:
        """Cancel the function because the process ends.

        The run ends as lost, or is queued again if another attempt may come.
        """
        if self.task is not None and not self._finishing:
            self.task.cancel()

    async def conclude(self, error: BaseException | None, value: Any = None) -> None:
        """End the run after its function has raised ``error`` or returned ``value``.

        Stores the events that wait first. With ``retry`` an error releases the run, so that another
        attempt can claim it. Waits while the log is away.
        """
        if self.lost:
            self.over()
            return
        if self._finishing:
            return
        state: State = "failed"
        result = why = None
        if self.cancelled or isinstance(error, RunCancelled):
            state = "cancelled"
        elif error is not None and self.retry:
            await self._settle(partial(self._store.release, self.state))
            return
        elif error is not None and not isinstance(error, Exception):
            state, why = "lost", STOPPED
        elif isinstance(error, RunFailed):
            why = str(error)
        elif error is not None:
            # Its text may not be meant for clients. It is in the process's log.
            why = f"the run failed: {type(error).__name__}"
        else:
            try:
                result = self.checked(self.result if value is None else value)
                state = "done"
            except UsageError as odd:
                logger.error("run %s: %s", self.state.id, odd)
                why = f"the run failed: {odd}"
        await self._settle(partial(self._store.end, self.state.id, state, result=result, error=why))

    async def leave(self, error: BaseException | None) -> None:
        """As ``conclude``, which goes on if the caller is cancelled."""
        await asyncio.shield(self._background(self.conclude(error)))

    def checked(self, value: Any) -> Any:
        """Returns a result as plain JSON data. Raises UsageError."""
        instead = "store it elsewhere and give its address"
        return plain_json(value, self._store.log, "its result", instead)[0]

    def over(self) -> None:
        """End this attempt: it stores nothing more, and this process no longer beats for it."""
        if self.done.is_set():
            return
        self.done.set()
        self._pulse.release(self)
        if self._overdue is not None:
            self._overdue.cancel()
        self._close("lost")
        self._on_over(self)

    def _close(self, reason: Literal["cancelled", "lost"]) -> None:
        if self._writer is not None:
            self._writer.close(reason)

    def _cut(self) -> None:
        """End the run, because its function has not ended in time after it was cancelled."""
        if self._finishing or self.done.is_set():
            return
        logger.error(
            "the function of run %s still runs %g s after the run was cancelled; nothing that it "
            "sends is stored any more. It must not catch CancelledError and RunCancelled",
            self.state.id,
            self._grace,
        )
        self._close("cancelled")
        self._finishing = True
        end = partial(self._store.end, self.state.id, "cancelled")
        self._background(self._settle(end, flush=False))
        if self.task is not None:
            self.task.cancel()

    async def _settle(
        self, store: Callable[[], Coroutine[Any, Any, object]], *, flush: bool = True
    ) -> None:
        """Store the events that wait, then the end of this attempt. Retries while the log is away.

        The attempt is lost if this process may no longer write.
        """
        self._finishing = True
        waits = f"the end of run {self.state.id} is not stored yet"
        try:
            if flush and self._writer is not None:
                await self._writer.flush()
            self.lost = not await stored(store, self._may_write, logging.WARNING, waits)
        except RunCancelled:
            self.lost = True
        finally:
            self.over()


class _Face:
    """The members that ``Run`` and ``SyncRun`` have in common."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        state = attempt.state
        self.id, self.owner, self.group = state.id, state.owner, state.group
        self.input, self.attempt = state.input, state.attempt

    @property
    def is_cancelled(self) -> bool:
        """Whether the function must stop."""
        return self._attempt.cancelled or self._attempt.lost


class Run(_Face):
    """A run, as the coroutine that produces it sees it.

    Its methods raise RunCancelled once the coroutine must stop.

    Attributes:
        id: the run's id.
        owner: the id of the run's owner.
        group: the run's group, such as a conversation; None without one.
        input: the JSON value that the run was started with: the request's body, or with ``start=``
            the value that the function returned.
        attempt: the number of this attempt: 1, and one more each time that a queue tries again.
        is_cancelled: whether the function must stop.
    """

    async def delta(self, text: str) -> None:
        """Add text to the output. It is stored at once, or 20 times a second with what came since.

        Waits while more than 256 KB of this run wait for a slow event log.
        """
        await self._attempt.writer.delta(text)

    async def send(self, name: str, data: Any = None) -> None:
        """Send an event of your own, such as ``send("progress", {"percent": 7})``.

        ``data`` is a JSON value or a pydantic model. It has at most ``log.max_event_bytes`` less
        512 bytes, which is about a megabyte. Raises UsageError.
        """
        await self._attempt.writer.send(_checked_name(name), data)

    async def result(self, value: Any) -> None:
        """Set the result, a JSON value. The run goes on until its function returns."""
        self._attempt.result = self._attempt.checked(value)
        _ = self._attempt.writer

    async def flush(self) -> None:
        """Wait until everything that was sent is stored."""
        await self._attempt.writer.flush()


class SyncRun(_Face):
    """A run, as a plain function in a thread sees it.

    It has the attributes of ``Run``, and its methods without ``await``. They raise RunCancelled
    once the function must stop.
    """

    def delta(self, text: str) -> None:
        """As ``Run.delta``."""
        self._do(Run(self._attempt).delta(text))

    def send(self, name: str, data: Any = None) -> None:
        """As ``Run.send``."""
        self._do(Run(self._attempt).send(name, data))

    def result(self, value: Any) -> None:
        """As ``Run.result``."""
        self._do(Run(self._attempt).result(value))

    def flush(self) -> None:
        """As ``Run.flush``."""
        self._do(Run(self._attempt).flush())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        if running_loop() is self._attempt.loop:
            work.close()
            raise UsageError(
                f"run {self.id}: a SyncRun would block this event loop for ever: use it in a thread"
            )
        asyncio.run_coroutine_threadsafe(work, self._attempt.loop).result()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"send({name!r}): the name of an event begins with a letter and has at most 100 "
            "characters of 0-9 A-Z a-z _ . : -"
        )
    if name in RESERVED:
        hint = "call delta()" if name == "delta" else "choose another one"
        raise UsageError(f"send({name!r}): this name has a meaning of its own; {hint}")
    return name
