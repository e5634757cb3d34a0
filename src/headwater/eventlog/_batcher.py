"""The batcher of all engines: it does jobs together that wait for the same connection or disk."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Generic, TypeVar

from headwater.errors import HeadwaterError, SourceUnavailableError, UsageError
from headwater.eventlog._home import in_use

J = TypeVar("J")
R = TypeVar("R")

# Jobs that may wait at once. A caller waits for each of them, so more are a fault.
ROOM = 100_000


@dataclass(slots=True, eq=False)
class Asked(Generic[J, R]):
    """A job and its caller.

    Attributes:
        job: what is to be done.
        done: the future that the caller waits for.
        by: the time of the loop at which the work gives up the job, if it does that.
    """

    job: J
    done: asyncio.Future[R]
    by: float = math.inf

    def answer(self, result: R) -> None:
        """Give the caller the result, unless it has left."""
        if not self.done.done():
            self.done.set_result(result)

    def refuse(self, error: Exception) -> None:
        """Raise the error at the caller, unless it has left.

        Each caller gets a copy: an exception collects the traceback of each place that raises it.
        """
        if self.done.done():
            return
        own = error
        if isinstance(error, HeadwaterError):
            own = copy(error)
            own.__cause__ = error.__cause__
        self.done.set_exception(own)


class Batcher(Generic[J, R]):
    """Does jobs in groups. Jobs that arrive while a group is done are the next group.

    Arguments:
        name: of the log, for errors and for the names of tasks.
        work: does a group. It answers or refuses each job; when it raises, each job that has no
            answer yet is refused with that error.
        weigh: the two weights of a job: its events and its bytes.
        most: the most that the jobs of one group weigh together. A job above it is done alone.
        lanes: groups that are done at the same time.
        room: jobs that may wait. One more is refused with SourceUnavailableError.
        patience: seconds from the arrival of a job until ``by``. When a group fails, the jobs that
            have waited for longer are refused too.

    Attributes:
        waiting: the jobs that are in no group yet, oldest first.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Asked[J, R]]], Awaitable[None]],
        weigh: Callable[[J], tuple[int, int]],
        most: tuple[int, int],
        *,
        lanes: int = 1,
        room: int = ROOM,
        patience: float = math.inf,
    ) -> None:
        self.waiting: deque[Asked[J, R]] = deque()
        self._name = name
        self._work = work
        self._weigh = weigh
        self._most = most
        self._lanes = lanes
        self._room = room
        self._patience = patience
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, job: J) -> R:
        """The job's result. A caller that is cancelled leaves a job that has begun running."""
        if self._closed:
            raise UsageError(f"{self._name} is closed")
        loop = asyncio.get_running_loop()
        if any(task.get_loop() is not loop for task in self._tasks):
            raise in_use(self._name)
        if len(self.waiting) >= self._room:
            raise SourceUnavailableError(self._name, f"{self._room} requests wait for it already")
        asked: Asked[J, R] = Asked(job, loop.create_future())
        self.put(asked)
        return await asked.done

    def put(self, asked: Asked[J, R]) -> None:
        """Take a job whose caller waits already."""
        asked.by = asyncio.get_running_loop().time() + self._patience
        self.waiting.append(asked)
        if len(self._tasks) < self._lanes:
            self._tasks.add(asyncio.create_task(self._run(), name=f"{self._name}: batches"))

    async def close(self) -> None:
        """Refuse further jobs with UsageError, and wait until the others are done."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _next_group(self) -> list[Asked[J, R]]:
        """The next jobs that together weigh at most ``most``; at least one job, if any waits.

        Jobs whose callers have left are dropped.
        """
        group: list[Asked[J, R]] = []
        first, second = self._most
        while self.waiting:
            one = self.waiting[0]
            if not one.done.done():
                weight, other = self._weigh(one.job)
                first -= weight
                second -= other
                if group and (first < 0 or second < 0):
                    break
                group.append(one)
            self.waiting.popleft()
        return group

    def _give_up(self) -> None:
        """Refuse the oldest jobs. Otherwise each group would wait for a server that hangs."""
        now = asyncio.get_running_loop().time()
        while self.waiting and self.waiting[0].by <= now:
            said = f"no answer within {self._patience:g} s"
            self.waiting.popleft().refuse(SourceUnavailableError(self._name, said))

    async def _run(self) -> None:
        group: list[Asked[J, R]] = []
        try:
            while group := self._next_group():
                try:
                    await self._work(group)
                except Exception as error:
                    for one in group:
                        one.refuse(error)
                    self._give_up()
        finally:
            self._tasks -= {asyncio.current_task()}
            # Only the end of the loop leaves any.
            for one in group:
                one.done.cancel()
            if not self._tasks:
                for one in self.waiting:
                    one.done.cancel()
                self.waiting.clear()
