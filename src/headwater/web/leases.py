"""Rights while a stream lives: each is asked again, and once for all streams that are alike.

A lease stands for one caller on one route with the same parameters. However many streams hold it,
it is asked once at a time, so what rights cost does not grow with the number of tabs a user opens.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass

from headwater.delivery.open_streams import OpenStreams
from headwater.delivery.small_set import EMPTY as NONE
from headwater.delivery.small_set import SmallSet as Few
from headwater.delivery.small_set import with_one, without
from headwater.delivery.stream import Stream

__all__ = ["CHANGED", "Lease", "Leases", "Verdict"]

logger = logging.getLogger("headwater.web")

# What a check answers: None when all is as before, CHANGED when the caller may go on but with
# other items, else the HTTP status that a new request would get.
Verdict = int | None
CHANGED = 0

# The contract says at least every 30 s; a check takes a moment.
INTERVAL = 25.0
# The leases are asked in so many groups, one after another, so that the questions of thousands do
# not come in one moment and keep deliveries waiting. On a short interval there are fewer.
_GROUPS = 64
_SHORTEST = 0.05
# Checks of one group that run at once: enough for their look-ups to share a statement, few enough
# to take some milliseconds.
_AT_ONCE = 32
# Seconds that one check may take: one that hangs must not keep all others from being asked.
_ANSWER = 10.0
# Seconds that a stream may go on while its rights cannot be asked.
_PATIENCE = 300.0


@dataclass(eq=False, slots=True)
class Lease:
    """The right of some streams to go on.

    Attributes:
        check: asks the rights again.
        subjects: on whose behalf; see ``identify``.
        streams: who holds it.
        group: when it is asked.
        asked: how many are asking it just now.
        unanswered_since: the loop's time since which it could not be asked, or None.
        leases: where it is kept.
    """

    name: Hashable
    check: Callable[[], Awaitable[Verdict]]
    subjects: tuple[str, ...]
    streams: Few[Stream]
    leases: Leases
    group: int
    asked: int = 0
    unanswered_since: float | None = None

    def let_go(self, stream: Stream) -> None:
        """A stream has ended."""
        self.leases.let_go(self, stream)


class Leases:
    """All leases of one event loop.

    Attributes:
        doubts: how often someone's rights were asked again. A request notes it before its guards
            run: had it grown when the stream is held, the guards' answer may be out of date.
    """

    def __init__(self, streams: OpenStreams, *, interval: float = INTERVAL) -> None:
        self._streams = streams
        self._interval = interval
        self._leases: dict[Hashable, Lease] = {}
        self._by_subject: dict[str, Few[Lease]] = {}
        many = min(_GROUPS, max(1, int(min(interval, 60.0) / _SHORTEST)))
        self._groups: list[set[Lease]] = [set() for _ in range(many)]
        self._next = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.doubts = 0

    def hold(
        self,
        stream: Stream,
        name: Hashable,
        check: Callable[[], Awaitable[Verdict]],
        subjects: tuple[str, ...],
        doubts: int,
    ) -> None:
        """Let ``stream`` go on for as long as ``check`` says so.

        Arguments:
            name: equal for streams whose rights are the same question.
            doubts: as it was before the stream's guards ran.
        """
        if stream.ended:
            return
        lease = self._leases.get((name, subjects))
        if lease is None:
            # At random: streams that were opened in one moment are not asked in one moment.
            group = random.randrange(len(self._groups))
            lease = Lease((name, subjects), check, subjects, NONE, self, group)
            self._leases[lease.name] = lease
            self._groups[group].add(lease)
            for subject in subjects:
                held = self._by_subject.get(subject, NONE)
                self._by_subject[subject] = with_one(held, lease)
        lease.streams = with_one(lease.streams, stream)
        stream.lease = lease
        if doubts != self.doubts:
            # The right may have been taken away between the guards' look and now.
            self._streams.run(self._ask_each((lease,)), "asking the rights of a stream")
        if self._timer is None and self._interval < math.inf:
            self._due = asyncio.get_running_loop().time()
            self._arm()

    async def recheck(self, subject: str | None = None) -> None:
        """Ask again now: for one subject, or for all."""
        self.doubts += 1
        leases: Iterable[Lease] = (
            self._leases.values() if subject is None else self._by_subject.get(subject, ())
        )
        await self._ask_each(leases)

    def close(self) -> None:
        """Ask no more."""
        self._interval = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return len(self._leases)

    def _arm(self) -> None:
        # Several processes that started together should not ask together. What comes late on a busy
        # machine does not delay what comes after it.
        loop = asyncio.get_running_loop()
        wait = self._interval / len(self._groups) * random.uniform(0.8, 1.0)
        self._due = max(self._due + wait, loop.time())
        self._timer = loop.call_at(self._due, self._turn)

    def _turn(self) -> None:
        """Ask the next group."""
        self._timer = None
        if not self._leases:
            return
        group = self._groups[self._next]
        self._next = (self._next + 1) % len(self._groups)
        # Who is still being asked, because it takes long, is not asked once more: on a busy
        # machine questions would pile up.
        due = [lease for lease in group if not lease.asked]
        if due:
            self._streams.run(self._ask_each(due), "asking the rights of streams")
        self._arm()

    async def _ask_each(self, leases: Iterable[Lease]) -> None:
        waiting = list(leases)
        for lease in waiting:
            lease.asked += 1

        async def work() -> None:
            while waiting:
                await self._ask(waiting.pop())

        try:
            await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, len(waiting)))))
        finally:
            for lease in waiting:
                lease.asked -= 1

    async def _ask(self, lease: Lease) -> None:
        try:
            if not lease.streams:
                return
            verdict = await self._verdict(lease)
        finally:
            lease.asked -= 1
        if verdict is None:
            return
        for stream in tuple(lease.streams):
            if verdict == CHANGED:
                # The client resumes at once, with what it may see now.
                stream.dismiss(random.randint(50, 250))
            else:
                self._streams.counters.denied += 1
                stream.fail(verdict)

    async def _verdict(self, lease: Lease) -> Verdict:
        try:
            async with asyncio.timeout(_ANSWER):
                verdict = await lease.check()
        except Exception as error:
            return self._unanswered(lease, error)
        lease.unanswered_since = None
        return verdict

    def _unanswered(self, lease: Lease, error: Exception) -> Verdict:
        # Who cannot be asked has not said no, so streams outlive an outage; but not for ever.
        logger.warning("the rights of a stream could not be asked: %r", error)
        now = asyncio.get_running_loop().time()
        if lease.unanswered_since is None:
            lease.unanswered_since = now
        return CHANGED if now - lease.unanswered_since > _PATIENCE else None

    def let_go(self, lease: Lease, stream: Stream) -> None:
        """A stream has ended; its lease is forgotten with the last one."""
        lease.streams = without(lease.streams, stream)
        if not lease.streams and self._leases.get(lease.name) is lease:
            del self._leases[lease.name]
            self._groups[lease.group].discard(lease)
            for subject in lease.subjects:
                holders = without(self._by_subject[subject], lease)
                self._by_subject[subject] = holders
                if not holders:
                    del self._by_subject[subject]
