"""One attempt to produce a run, and the two faces that its code is given."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from headwater.errors import RunCancelled, RunFailed, SourceUnavailableError, UsageError
from headwater.runs._pulse import Pulse
from headwater.runs._records import RunState, State
from headwater.runs._store import Store
from headwater.runs._writer import ENVELOPE, Writer

__all__ = ["Attempt", "Run", "SyncRun"]

logger = logging.getLogger("headwater.runs")

T = TypeVar("T")

# Names that have a meaning of their own in the stream of a run.
RESERVED = frozenset(
    {"run", "delta", "restart", "reset", "end", "error", "message", "open", "snapshot"}
)
_NAME = re.compile(r"[A-Za-z][0-9A-Za-z_.:-]{0,99}")

STOPPED = "the process that produced this run was stopped"


class Attempt:
    """What produces a run, in one event loop.

    Arguments:
        grace: seconds that its code has to clean up after it was cancelled.
        background: runs something beside, and keeps it.

    Attributes:
        state: the run as it was when it was claimed.
        cancelled: somebody cancelled the run.
        lost: the run is this process's no more.
        done: set once nothing more comes of this attempt.
        touched_at: when its code sent something last, by the monotonic clock.
    """

    def __init__(
        self,
        store: Store,
        pulse: Pulse,
        state: RunState,
        *,
        grace: float,
        background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.cancelled = self.lost = self.stopping = False
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
        self._writer: Writer | None = None
        self._finishing = False
        self._overdue: asyncio.TimerHandle | None = None
        self.worker = pulse.hold(self)

    @property
    def run_id(self) -> str:
        """The run that it produces."""
        return self.state.id

    def silence(self) -> float:
        """Seconds since its code sent something; 0 before it began and while it ends."""
        if not self.begun or self._finishing:
            return 0.0
        return time.monotonic() - self.touched_at

    def begin(self, claim: str) -> None:
        """The claim was made: events may be stored."""
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
        """Where events go. Raises RunCancelled where its code must stop."""
        self.touched_at = time.monotonic()
        if self._writer is None or self.lost:
            raise RunCancelled(self.state.id, "lost")
        if self.cancelled and self.sync:
            raise RunCancelled(self.state.id, "cancelled")
        return self._writer

    async def _may_write(self) -> bool:
        return await self._pulse.may_write(self.worker, self._store.log)

    def cancel(self) -> None:
        """Cancel its code, which has a time to clean up."""
        if self.cancelled or self._finishing:
            return
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()
        self._overdue = self.loop.call_later(self._grace, self._cut)

    def lose(self) -> None:
        """Stop at once: nothing more is stored. May be called in any thread."""
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
        """The process ends: cancel its code; the run is lost, unless another attempt may come."""
        self.stopping = True
        if self.task is not None:
            self.task.cancel()

    async def finish(self, state: State, *, result: Any = None, error: str | None = None) -> None:
        """Store what waits, and end the run. Waits for a log that is away."""
        if self._finishing or self.lost:
            return
        if self.cancelled:
            state, result, error = "cancelled", None, None
        self._finishing = True
        try:
            if self._writer is not None:
                await self._writer.flush()
            await self._insist(
                lambda: self._store.end(self.state.id, state, result=result, error=error)
            )
        except RunCancelled:
            self.lost = True
        finally:
            self.over()

    async def give_up(self) -> None:
        """Let another attempt have the run."""
        claim = self.state.claim
        if self.lost or self._finishing or claim is None:
            return
        self._finishing = True
        try:
            await self.writer.flush()
            await self._insist(lambda: self._store.release(self.state, claim))
        except RunCancelled:
            self.lost = True
        finally:
            self.over()

    async def conclude(self, error: BaseException | None, value: Any = None) -> None:
        """End the run as its code has ended: by an error, or with a value."""
        if self.lost:
            self.over()
        elif self.cancelled:
            await self.finish("cancelled")
        elif error is not None and not isinstance(error, Exception):
            if self.retry:
                await self.give_up()
            else:
                await self.finish("lost", error=STOPPED)
        elif isinstance(error, RunCancelled):
            await self.finish("cancelled")
        elif error is not None and self.retry:
            await self.give_up()
        elif isinstance(error, RunFailed):
            await self.finish("failed", error=str(error))
        elif error is not None:
            # What it says may not be for clients; the log has it.
            await self.finish("failed", error=f"the run failed: {type(error).__name__}")
        else:
            try:
                value = self.checked(self.result if value is None else value)
            except UsageError as odd:
                logger.error("run %s: %s", self.state.id, odd)
                await self.finish("failed", error=f"the run failed: {odd}")
                return
            await self.finish("done", result=value)

    def checked(self, value: Any) -> Any:
        """A result as it can be stored. Raises UsageError."""
        dump = getattr(value, "model_dump", None)
        try:
            plain = value if dump is None else dump(mode="json")
            text = json.dumps(plain, allow_nan=False, ensure_ascii=False)
            size = len(text.encode())
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"its result is no JSON: {error}") from error
        most = self._store.log.max_event_bytes - ENVELOPE
        if size > most:
            raise UsageError(
                f"its result has {size} bytes of JSON, and at most {most} are allowed: store it "
                "elsewhere and give its address"
            )
        return json.loads(text)

    def over(self) -> None:
        """Nothing more comes."""
        self._pulse.release(self)
        if self._overdue is not None:
            self._overdue.cancel()
        self._close("lost")
        self.done.set()

    def _close(self, reason: str) -> None:
        if self._writer is not None:
            self._writer.close(reason)

    def _cut(self) -> None:
        """Its code has not ended in time after it was cancelled."""
        if self._finishing or self.done.is_set():
            return
        logger.error(
            "run %s goes on %g s after it was cancelled, and nothing that it sends is stored any "
            "more: its code must let CancelledError and RunCancelled pass",
            self.state.id,
            self._grace,
        )
        self._close("cancelled")
        self._finishing = True
        self._background(self._end_cut())
        if self.task is not None:
            self.task.cancel()

    async def _end_cut(self) -> None:
        try:
            await self._insist(lambda: self._store.end(self.state.id, "cancelled"))
        except RunCancelled:
            self.lost = True
        finally:
            self.over()

    async def _insist(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do it as soon as the log can, for as long as this process may write."""
        delay = 0.05
        while await self._may_write():
            try:
                return await work()
            except SourceUnavailableError as error:
                logger.warning("the end of run %s waits: %s", self.state.id, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
        raise RunCancelled(self.state.id, "lost")


class _Face:
    """What both faces of a run have in common.

    Attributes:
        id: the run's id.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.id = attempt.state.id

    @property
    def owner(self) -> str:
        """Whose run it is."""
        return self._attempt.state.owner

    @property
    def group(self) -> str | None:
        """The value of the group's field."""
        return self._attempt.state.group

    @property
    def input(self) -> Any:
        """What the run was started with: the request's body, or what its function returned."""
        return self._attempt.state.input

    @property
    def attempt(self) -> int:
        """1, and one more each time that a queue tries again."""
        return self._attempt.state.attempt

    @property
    def is_cancelled(self) -> bool:
        """Whether its code must stop."""
        return self._attempt.cancelled or self._attempt.lost


class Run(_Face):
    """A run, for the code that produces it. Its methods raise RunCancelled once that must stop."""

    async def delta(self, text: str) -> None:
        """Add text to the output. Texts that follow each other within 50 ms are stored together.

        Waits only while the event log is so slow that 256 KB wait for it.
        """
        await self._attempt.writer.delta(text)

    async def send(self, name: str, data: Any = None) -> None:
        """Send an event of your own, such as ``send("progress", {"percent": 7})``.

        ``data`` is a JSON value of at most a megabyte. Raises UsageError.
        """
        await self._attempt.writer.send(_checked_name(name), data)

    async def result(self, value: Any) -> None:
        """Set the result, a JSON value. The run ends when its code does."""
        self._attempt.result = self._attempt.checked(value)
        _ = self._attempt.writer

    async def flush(self) -> None:
        """Wait until all that was sent is stored."""
        await self._attempt.writer.flush()


class SyncRun(_Face):
    """A run, for code without an event loop: the same methods, which wait."""

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
        asyncio.run_coroutine_threadsafe(work, self._attempt.loop).result()


def _checked_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"send({name!r}): the name of an event begins with a letter and has up to 100 of "
            "0-9 A-Z a-z _ . : -"
        )
    if name in RESERVED:
        hint = "call delta()" if name == "delta" else "choose another one"
        raise UsageError(f"send({name!r}): this name has a meaning of its own; {hint}")
    return name
