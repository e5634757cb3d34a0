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
from headwater.delivery.stream import Stream

__all__ = ["CHANGED", "Lease", "Leases", "Verdict"]

logger = logging.getLogger("headwater.web")

# What a check answers: None when all is as before, CHANGED when the caller may go on but with
# other items, else the HTTP status that a new request would get.
Verdict = int | None
CHANGED = 0

# The contract says at least every 30 s; the checks of one round take a moment.
INTERVAL = 25.0
# Checks that run at once: as many as a look-up that gathers them can take in one statement, few
# enough to get through a pool of some connections within moments.
_AT_ONCE = 256
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
        unanswered_since: the loop's time since which it could not be asked, or None.
        leases: where it is kept.
    """

    name: Hashable
    check: Callable[[], Awaitable[Verdict]]
    subjects: frozenset[str]
    streams: set[Stream]
    leases: Leases
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
        self._by_subject: dict[str, set[Lease]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._timer: asyncio.TimerHandle | None = None
        self._asking = False
        self.doubts = 0

    def hold(
        self,
        stream: Stream,
        name: Hashable,
        check: Callable[[], Awaitable[Verdict]],
        subjects: frozenset[str],
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
            lease = Lease((name, subjects), check, subjects, set(), self)
            self._leases[lease.name] = lease
            for subject in subjects:
                self._by_subject.setdefault(subject, set()).add(lease)
        lease.streams.add(stream)
        stream.lease = lease
        if doubts != self.doubts:
            # The right may have been taken away between the guards' look and now.
            self._streams.run(self._ask(lease), "asking the rights of a stream")
        if self._timer is None and not self._asking and self._interval < math.inf:
            self._arm()

    async def recheck(self, subject: str | None = None) -> None:
        """Ask again now: for one subject, or for all."""
        self.doubts += 1
        leases: Iterable[Lease] = (
            self._leases.values() if subject is None else self._by_subject.get(subject, ())
        )
        await asyncio.gather(*(self._ask(lease) for lease in tuple(leases)))

    def close(self) -> None:
        """Ask no more."""
        self._interval = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return len(self._leases)

    def _arm(self) -> None:
        # Several processes that started together should not ask together.
        wait = self._interval * random.uniform(0.8, 1.0)
        self._timer = asyncio.get_running_loop().call_later(wait, self._round)

    def _round(self) -> None:
        self._timer = None
        if self._leases:
            self._asking = True
            self._streams.run(self._ask_all(), "asking the rights of streams")

    async def _ask_all(self) -> None:
        # The next round begins when it is due, but never before this one has ended: on a busy
        # machine rounds would pile up.
        loop = asyncio.get_running_loop()
        due = loop.time() + self._interval * random.uniform(0.8, 1.0)
        try:
            await self.recheck()
        finally:
            self._asking = False
            if self._leases and self._interval < math.inf:
                self._timer = loop.call_at(due, self._round)

    async def _ask(self, lease: Lease) -> None:
        async with self._slots:
            if not lease.streams:
                return
            try:
                async with asyncio.timeout(_ANSWER):
                    verdict = await lease.check()
                lease.unanswered_since = None
            except Exception as error:
                verdict = self._unanswered(lease, error)
        if verdict is None:
            return
        for stream in tuple(lease.streams):
            if verdict == CHANGED:
                # The client resumes at once, with what it may see now.
                stream.dismiss(random.randint(50, 250))
            else:
                self._streams.counters.denied += 1
                stream.fail(verdict)

    def _unanswered(self, lease: Lease, error: Exception) -> Verdict:
        # Who cannot be asked has not said no, so streams outlive an outage; but not for ever.
        logger.warning("the rights of a stream could not be asked: %r", error)
        now = asyncio.get_running_loop().time()
        if lease.unanswered_since is None:
            lease.unanswered_since = now
        return CHANGED if now - lease.unanswered_since > _PATIENCE else None

    def let_go(self, lease: Lease, stream: Stream) -> None:
        """A stream has ended; its lease is forgotten with the last one."""
        lease.streams.discard(stream)
        if not lease.streams and self._leases.get(lease.name) is lease:
            del self._leases[lease.name]
            for subject in lease.subjects:
                holders = self._by_subject[subject]
                holders.discard(lease)
                if not holders:
                    del self._by_subject[subject]
