"""The rights of open streams: each is checked again, once for all streams that are alike.

A right stands for one caller on one route with the same parameters. However many streams hold it,
it is checked once at a time, so its cost does not grow with the number of tabs that a user opens.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from headwater.delivery._open_streams import OpenStreams
from headwater.delivery._small_set import EMPTY, SmallSet, with_one, without
from headwater.web._addresses import network_of
from headwater.web._remembered_request import RememberedRequest
from headwater.web._stream_limits import StreamPlace

logger = logging.getLogger("headwater.web")

# What a check answers: None when all is as before, CHANGED when the caller may go on but with
# other items, else the HTTP status that a new request would get.
Verdict = int | None
CHANGED = 0

# The contract says at least every 30 s; a check takes a moment.
INTERVAL = 25.0
# The rights are checked in so many groups, one after another, so that the checks of thousands do
# not come in one moment and keep deliveries waiting. On a short interval there are fewer.
_GROUPS = 64
_SHORTEST = 0.05
# Checks of one group that run at once: enough for their look-ups to share a statement, few enough
# to take some milliseconds.
_AT_ONCE = 32
# Seconds that one check may take: one that hangs must not keep all others waiting.
_CHECK_TIMEOUT = 10.0
# Seconds after a right has expired at which it is checked.
_AFTER_EXPIRY = 0.02
# Seconds for which a round of re-checks keeps the next one waiting, and the longest pause between.
_ROUND = 0.5
# Seconds that a stream may go on while its right cannot be checked.
_PATIENCE = 300.0


class Holder(Protocol):
    """A response that may go on only while its right holds: a stream, or a poll that waits.

    Attributes:
        ended: the response is over.
        lease: the right that it holds.
    """

    ended: bool
    lease: Any

    def __hash__(self) -> int: ...

    def fail(self, status: int) -> None:
        """End the response with this status."""
        ...

    def dismiss(self, retry: int) -> None:
        """End the response; the client comes back after ``retry`` milliseconds."""
        ...


@dataclass(eq=False, slots=True)
class Right:
    """The right of some streams to go on.

    Attributes:
        check: checks it again.
        subjects: on whose behalf; see ``identify``.
        streams: the responses that hold it.
        group: when it is checked.
        checking: how many checks of it are running or waiting.
        unanswered_since: the loop's time since which it could not be checked, or None.
        rights: where it is kept.
        place: each of the streams has taken such a one.
        expires: when it ends by itself, in Unix time, or None.
        request: the first of the requests that it is the right of; they are alike.
    """

    name: Hashable
    check: Callable[[], Awaitable[Verdict]]
    subjects: tuple[str, ...]
    streams: SmallSet[Holder]
    rights: Rights
    group: int
    checking: int = 0
    unanswered_since: float | None = None
    place: StreamPlace | None = None
    expires: float | None = None
    request: RememberedRequest | None = None

    @property
    def caller(self) -> Hashable:
        """On whose behalf: the subjects, or the client's network where there are none."""
        return self.subjects or (self.request and network_of(self.request.client))

    def release(self, stream: Holder) -> None:
        """Forget a stream that has ended."""
        self.rights.forget(self, stream)


class Rights:
    """The rights of all open streams of one event loop.

    Attributes:
        rechecks: how often ``recheck`` was called. A request notes it before its guards run: when
            it has grown by the time the stream opens, the guards' answer may be out of date.
    """

    def __init__(self, streams: OpenStreams, *, interval: float = INTERVAL) -> None:
        self._streams = streams
        self._interval = interval
        self._rights: dict[Hashable, Right] = {}
        self._by_subject: dict[str, SmallSet[Right]] = {}
        many = min(_GROUPS, max(1, int(min(interval, 60.0) / _SHORTEST)))
        self._groups: list[set[Right]] = [set() for _ in range(many)]
        self._turns = itertools.cycle(self._groups)
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        # Those that end before they are checked next, each with the check at that moment.
        self._expiring: dict[Right, asyncio.TimerHandle] = {}
        self.rechecks = 0
        # The subjects of the round of re-checks that is to come, that round, and the latest one.
        self._named: set[str | None] = set()
        self._coming: asyncio.Task[None] | None = None
        self._latest: asyncio.Task[None] | None = None
        self._rest_until = 0.0

    def hold(
        self,
        stream: Holder,
        name: Hashable,
        check: Callable[[], Awaitable[Verdict]],
        subjects: tuple[str, ...],
        rechecks: int,
        place: StreamPlace | None = None,
        expires: float | None = None,
        request: RememberedRequest | None = None,
    ) -> None:
        """Let ``stream`` go on for as long as ``check`` says so.

        Its place is given back when it ends.

        Arguments:
            name: equal for streams whose rights are the same question.
            rechecks: as it was before the stream's guards ran.
            expires: when the right ends by itself, in Unix time.
            request: that the stream comes of.
        """
        if stream.ended:
            if place is not None:
                place.give_back()
            return
        right = self._rights.get((name, subjects))
        if right is None:
            # At random: streams that were opened in one moment are not checked in one moment.
            group = random.randrange(len(self._groups))
            right = Right(
                (name, subjects), check, subjects, EMPTY, self, group, place=place, request=request
            )
            self._rights[right.name] = right
            self._groups[group].add(right)
            for subject in subjects:
                held = self._by_subject.get(subject, EMPTY)
                self._by_subject[subject] = with_one(held, right)
        right.streams = with_one(right.streams, stream)
        right.expires = expires
        stream.lease = right
        self._note_expiry(right)
        if rechecks != self.rechecks:
            # The right may have been taken away since the guards ran.
            self._streams.run(self._check_each((right,)), "checking the rights of a stream")
        if self._timer is None and self._interval < math.inf:
            self._due = asyncio.get_running_loop().time()
            self._arm()

    def _note_expiry(self, right: Right) -> None:
        # Each right is checked every so often, so one that ends later is seen again in time.
        if right.expires is None or right in self._expiring:
            return
        left = right.expires - time.time()
        if left < 2 * self._interval:
            # A little later, since clocks are read in steps.
            after = max(left, 0.0) + _AFTER_EXPIRY
            self._expiring[right] = asyncio.get_running_loop().call_later(
                after, self._expire, right
            )

    def _expire(self, right: Right) -> None:
        del self._expiring[right]
        if right.streams:
            self._streams.run(self._check_each((right,)), "checking a right that has expired")

    async def recheck(self, *subjects: str | None) -> None:
        """Check again: for these subjects; for all if there are none, or None is among them.

        At once, unless a re-check was just made: checks run in rounds, with pauses as long as the
        rounds. So a user whose rights change all the time, or who changes those of many, takes no
        more than about half of the loop's time.
        """
        self.rechecks += 1
        self._named.update(subjects or (None,))
        if self._coming is None:
            self._coming = self._streams.run(self._round(self._latest), "re-checks")
        # A caller that is cancelled does not end the round of the others.
        await asyncio.wait({self._coming})

    async def _round(self, before: asyncio.Task[None] | None) -> None:
        loop = asyncio.get_running_loop()
        if before is not None:
            # One that hangs does not keep the changes after it waiting.
            await asyncio.wait({before}, timeout=_ROUND)
        await asyncio.sleep(self._rest_until - loop.time())
        named, self._named = self._named, set()
        self._latest, self._coming = self._coming, None
        began = loop.time()
        rights: Iterable[Right] = (
            self._rights.values()
            if None in named
            else {right for each in named for right in self._by_subject.get(each or "", ())}
        )
        await self._check_each(rights)
        now = loop.time()
        self._rest_until = now + min(now - began, _ROUND)

    def close(self) -> None:
        """Check no more."""
        self._interval = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer in self._expiring.values():
            timer.cancel()
        self._expiring.clear()

    def _arm(self) -> None:
        # At random: processes that started together do not check together. A late turn on a busy
        # machine does not delay the turns after it.
        loop = asyncio.get_running_loop()
        wait = self._interval / len(self._groups) * random.uniform(0.8, 1.0)
        self._due = max(self._due + wait, loop.time())
        self._timer = loop.call_at(self._due, self._turn)

    def _turn(self) -> None:
        """Check the next group."""
        self._timer = None
        if not self._rights:
            return
        # A check that is still running is not started once more: on a busy machine they would
        # pile up.
        due = [right for right in next(self._turns) if not right.checking]
        if due:
            self._streams.run(self._check_each(due), "checking the rights of streams")
        self._arm()

    async def _check_each(self, rights: Iterable[Right]) -> None:
        waiting = list(rights)
        for right in waiting:
            right.checking += 1

        async def work() -> None:
            while waiting:
                await self._check(waiting.pop())

        try:
            await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, len(waiting)))))
        finally:
            for right in waiting:
                right.checking -= 1

    async def _check(self, right: Right) -> None:
        try:
            if not right.streams:
                return
            verdict = await self._verdict(right)
        finally:
            right.checking -= 1
        if verdict is None:
            self._note_expiry(right)
            return
        for stream in tuple(right.streams):
            if verdict == CHANGED:
                # The client resumes at once, with what it may see now.
                stream.dismiss(random.randint(50, 250))
            else:
                self._streams.counters.denied += 1
                stream.fail(verdict)

    async def _verdict(self, right: Right) -> Verdict:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                verdict = await right.check()
        except Exception as error:
            # A check that cannot run is no refusal, so streams outlive an outage; but not for ever.
            logger.warning("the right of a stream could not be checked: %r", error)
            now = asyncio.get_running_loop().time()
            if right.unanswered_since is None:
                right.unanswered_since = now
            return CHANGED if now - right.unanswered_since > _PATIENCE else None
        right.unanswered_since = None
        return verdict

    def forget(self, right: Right, stream: Holder) -> None:
        """Forget a stream that has ended, and its right with the last stream."""
        if stream not in right.streams:
            return
        if right.place is not None:
            right.place.give_back()
        right.streams = without(right.streams, stream)
        if not right.streams and self._rights.get(right.name) is right:
            del self._rights[right.name]
            timer = self._expiring.pop(right, None)
            if timer is not None:
                timer.cancel()
            self._groups[right.group].discard(right)
            for subject in right.subjects:
                holders = without(self._by_subject[subject], right)
                self._by_subject[subject] = holders
                if not holders:
                    del self._by_subject[subject]


def verdict_of(status: int) -> Verdict:
    """What the status of a re-check means for a stream that is open already."""
    if status in (401, 403):
        return status
    if status == 404:
        # The caller may no longer know that it exists.
        return 403
    if status >= 500 or status == 429:
        return None
    return CHANGED
