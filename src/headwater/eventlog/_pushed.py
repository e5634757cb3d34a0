"""Following topics of an engine that pushes: one task for all topics, and no request per record.

A push names the record before it. If that is the last one that the topic's followers have, its
records are delivered as they come. Otherwise a push or the connection was lost, or the storage is
another one. Then the reader finds the gap by comparing offsets, and reads it from the log.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from headwater.errors import ResetReason, SourceUnavailableError, UsageError
from headwater.eventlog._checked import CheckedLog
from headwater.eventlog._following import SHORTEST, FollowedTopic, LogReader
from headwater.eventlog._interface import Follower
from headwater.eventlog._pushes import Push, States, Subscriptions
from headwater.eventlog._record import (
    START,
    Bounds,
    Capabilities,
    Offset,
    Retention,
    Run,
)

_T = TypeVar("_T")

# Records per read of what was missed; each may have a megabyte.
ROWS = 100
# Topics that are read at the same time after an outage.
ABREAST = 20
# Seconds between two checks that the log is still the same one. What an idle process costs.
CHECK = 1.0
# Checks until each topic was compared with the log: pushes may stop without an error.
ROUND = 5
# Seconds between reads of a replica that has not yet got what was pushed.
BEHIND = 0.02


@dataclass(slots=True, eq=False)
class _PushedTopic(FollowedTopic):
    """A topic that is subscribed.

    Attributes:
        target: the highest offset that was pushed.
        sure: nothing before the next push can have been missed.
    """

    target: Offset = START
    sure: bool = True

    def deliver_push(self, push: Push) -> bool:
        """Deliver what was pushed. False: its records must be read, or some before them."""
        self.target = max(self.target, push.last)
        if push.before != self.last or push.mark not in (None, self.mark):
            # Something was missed, or was read already, or the log went back: a read finds out.
            self.sure = False
        if push.records is None or not self.sure:
            return False
        self.deliver(push.records)
        return True

    def is_at(self, bounds: Bounds) -> bool:
        """Whether the topic ends where its followers are."""
        there = (self.last, self.mark) == (bounds.latest, bounds.mark)
        return there and self.last >= self.target

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        self.target, self.sure = bounds.latest, True
        # A dataclass with slots is a new class, which super() without arguments does not find.
        FollowedTopic.reset(self, reason, bounds)


class PushReader(LogReader[_PushedTopic]):
    """The reader of a log that pushes."""

    def __init__(self, log: PushedLog) -> None:
        super().__init__(log.name)
        self._pushing = log
        self._subscriptions: Subscriptions | None = None
        # Topics that are joining, with the highest offset that was pushed meanwhile.
        self._entering: dict[str, Offset] = {}
        self._leaving: set[str] = set()
        self._behind: set[str] = set()
        self._fault: Exception | None = None
        self._doubt = False
        self._ending = False
        self._epoch: str | None = None
        self._head = 0

    async def close(self) -> None:
        # A task that ends by itself just now closes its connection.
        if self._task is not None and not self._ending:
            self._task.cancel()
        await super().close()

    def receive(self, push: Push) -> None:
        """Something was appended to a subscribed topic. Called in the event loop."""
        followed = self._topics.get(push.topic)
        if followed is None:
            if push.topic in self._entering:
                self._entering[push.topic] = max(self._entering[push.topic], push.last)
            return
        if push.epoch is not None and self._epoch is not None and push.epoch != self._epoch:
            self._doubt = True
            self._wake.set()
            return
        self._head = max(self._head, push.head)
        if not followed.deliver_push(push):
            self._behind.add(push.topic)
            self._wake.set()

    def lost(self, error: Exception) -> None:
        """The connection broke: no push comes on it any more."""
        self._fault = error
        self._wake.set()

    def _left(self, topic: str) -> None:
        self._leaving.add(topic)
        self._wake.set()

    def _refuse_joining(self, error: Exception) -> None:
        # A connection that broke just now may be back at the next try: then joining takes longer.
        if error is not self._fault:
            super()._refuse_joining(error)

    async def _read_on(self) -> None:
        """Read on one connection for pushes, until it breaks or nothing is followed."""
        self._fault = None
        self._subscriptions = await self._pushing.listen(self)
        time = asyncio.get_running_loop().time
        try:
            self._leaving.clear()
            for followed in self._topics.values():
                followed.sure = False
            await self._subscriptions.subscribe(list(self._topics))
            await self._check(list(self._topics))
            self._delay = SHORTEST
            due = time() + CHECK
            turn = 0
            while self._topics or self._joining:
                self._wake.clear()
                await self._unsubscribe(self._subscriptions)
                await self._join()
                if time() >= due:
                    await self._subscriptions.ping()
                    self._doubt = True
                    due = time() + CHECK
                    turn = (turn + 1) % ROUND
                if self._doubt:
                    await self._check([*self._topics][turn::ROUND])
                await self._catch_up()
                await self._pause(due - time())
                if self._fault is not None:
                    raise self._fault
        finally:
            self._ending = True
            try:
                await self._subscriptions.close()
            finally:
                self._subscriptions = None
                self._ending = False

    async def _unsubscribe(self, subscriptions: Subscriptions) -> None:
        joining = {one.topic for one in self._joining}
        gone = [one for one in self._leaving if one not in self._topics and one not in joining]
        self._leaving.clear()
        if gone:
            await subscriptions.unsubscribe(gone)

    async def _enter(self, names: Sequence[str]) -> Mapping[str, Bounds]:
        fresh = [name for name in names if name not in self._topics]
        self._entering = dict.fromkeys(fresh, START)
        try:
            if self._subscriptions is not None:
                await self._subscriptions.subscribe(fresh)
            states = await self._pushing.states(names)
            if self._epoch is not None and states.epoch != self._epoch:
                await self._begin_anew()
                states = await self._pushing.states(names)
            self._epoch = states.epoch
            self._head = max(self._head, states.head)
            for name in fresh:
                bounds = states.topics[name]
                followed = _PushedTopic(
                    name, bounds.latest, bounds.mark, target=self._entering[name]
                )
                self._topics[name] = followed
                if not followed.is_at(bounds):
                    self._behind.add(name)
            return states.topics
        finally:
            self._entering = {}

    async def _check(self, topics: Sequence[str]) -> None:
        """Check that the log is still the same, and that these topics have nothing new."""
        self._doubt = False
        known = self._head
        ends = {name: self._topics[name].last for name in topics}
        states = await self._pushing.states(topics)
        if self._epoch is None:
            return
        if states.epoch != self._epoch:
            await self._begin_anew()
            return
        if states.head < known:
            # The same log, and younger: restored from a copy, or its last writes were lost.
            await self._pushing.begin_anew(self._epoch)
            await self._begin_anew()
            return
        self._head = max(self._head, states.head)
        for name, bounds in states.topics.items():
            followed = self._topics.get(name)
            if followed is None:
                continue
            if followed.is_at(bounds):
                followed.sure = True
            elif followed.last == ends[name]:  # no push came meanwhile
                self._behind.add(name)

    async def _begin_anew(self) -> None:
        """Reset all followers: the storage is another one, or an older copy of itself."""
        states = await self._pushing.states(list(self._topics))
        self._epoch, self._head = states.epoch, states.head
        self._behind.clear()
        for topic, bounds in states.topics.items():
            followed = self._topics.get(topic)
            if followed is not None:
                followed.reset("unknown", bounds)

    async def _catch_up(self) -> None:
        """Read what was not pushed."""
        behind, self._behind = list(self._behind), set()
        for start in range(0, len(behind), ABREAST):
            names = behind[start : start + ABREAST]
            done = await asyncio.gather(*map(self._read, names), return_exceptions=True)
            for error in done:
                if error is not None:
                    self._behind.update(behind[start:])
                    raise error

    async def _read(self, name: str) -> None:
        followed = self._topics.get(name)
        patient_until = asyncio.get_running_loop().time() + CHECK
        while followed is not None:
            after = followed.last
            run = await self._pushing.read(name, after, ROWS)
            if self._topics.get(name) is not followed:
                return
            if run.bounds.epoch != self._epoch:
                self._doubt = True
                self._wake.set()
                return
            if followed.last == after:
                if await self._went_back(followed, run):
                    self._behind.add(name)
                    self._doubt = True
                    self._wake.set()
                    return
                if followed.lost(run.bounds, run.place):
                    self._behind.add(name)  # a push that came meanwhile was not delivered
                    self._wake.set()
                    return
                followed.deliver(run.records)
                if len(run.records) < ROWS:
                    followed.advance(run.bounds.latest, run.bounds.mark)
            if followed.last >= followed.target and len(run.records) < ROWS:
                followed.sure = True
                return
            if followed.last == after:
                if self._fault is not None or asyncio.get_running_loop().time() > patient_until:
                    # No read finds what was pushed: it was lost, or the replica is gone.
                    self._behind.add(name)
                    self._doubt = True
                    return
                await asyncio.sleep(BEHIND)

    async def _went_back(self, followed: _PushedTopic, run: Run) -> bool:
        """Begin a new epoch if the log went back and was appended to since. True then.

        Positions from before the lost records still look right, but their clients missed those.
        """
        if run.bounds.loss(followed.last, followed.mark, run.place) != "unknown":
            return False
        with suppress(SourceUnavailableError):  # a user who may only read
            if await self._pushing.went_back(followed.name, followed.last):
                await self._pushing.begin_anew(run.bounds.epoch)
                return True
        return False


class PushedLog(CheckedLog):
    """An event log on a server that pushes each append, and remembers keys for some time.

    Attributes:
        topics_per_request: the most topics that one request asks for.
        at_once: topics that are trimmed or forgotten at the same time.
    """

    topics_per_request: int
    at_once: int

    def __init__(self, keys_kept: timedelta, max_batch: int) -> None:
        if keys_kept < timedelta(seconds=1):
            raise UsageError(f"keys_kept={keys_kept}: give at least a second, as retries take time")
        self.capabilities = Capabilities(
            durable=True,
            multi_process=True,
            transactional=False,
            trim_by_size=True,
            max_batch=max_batch,
            keys_kept=keys_kept,
        )
        self._reader = PushReader(self)

    async def _follow(self, topic: str, follower: Follower) -> Bounds:
        return await self._reader.follow(topic, follower)

    async def unfollow(self, topic: str, follower: Follower) -> None:
        self._reader.unfollow(topic, follower)

    async def _close(self) -> None:
        await self._reader.close()

    async def states(self, topics: Sequence[str]) -> States:
        """The state of the log and of these topics, not older than this call."""
        states = await self._states(topics[: self.topics_per_request])
        found = dict(states.topics)
        for start in range(self.topics_per_request, len(topics), self.topics_per_request):
            more = await self._states(topics[start : start + self.topics_per_request])
            if more.epoch != states.epoch:
                raise SourceUnavailableError(self.name, "it was wiped just now")
            states = more
            found.update(more.topics)
        return States(states.epoch, states.head, found)

    async def _bounds(self, topic: str) -> Bounds:
        return (await self._states([topic])).topics[topic]

    async def _trim(self, topic: str | None, keep: Retention) -> int:
        if topic is not None:
            return await self._trim_topic(topic, keep)
        trim = partial(self._trim_topic, keep=keep)
        return sum(await self._each(trim, await self._topics_to_trim(keep)))

    async def _forget(self, topics: Sequence[str]) -> None:
        await self._each(self._forget_topic, topics)

    async def _each(
        self, do: Callable[[str], Coroutine[Any, Any, _T]], topics: Sequence[str]
    ) -> list[_T]:
        """What ``do`` returned for each topic; ``at_once`` of them run at the same time."""
        done: list[_T] = []
        for start in range(0, len(topics), self.at_once):
            done += await asyncio.gather(*map(do, topics[start : start + self.at_once]))
        return done

    @abstractmethod
    async def listen(self, reader: PushReader) -> Subscriptions:
        """Open a connection whose pushes the reader receives, without subscriptions."""

    @abstractmethod
    async def begin_anew(self, epoch: str) -> None:
        """Replace this epoch by another one, unless another process has done so already."""

    @abstractmethod
    async def went_back(self, topic: str, last: Offset) -> bool:
        """Whether the whole log went back, and not only the topic. Its ``last`` record is gone."""

    @abstractmethod
    async def _states(self, topics: Sequence[str]) -> States:
        """The state of the log and of up to ``topics_per_request`` topics."""

    @abstractmethod
    async def _topics_to_trim(self, keep: Retention) -> Sequence[str]:
        """The topics that may have something to remove."""

    @abstractmethod
    async def _trim_topic(self, topic: str, keep: Retention) -> int: ...

    @abstractmethod
    async def _forget_topic(self, topic: str) -> None: ...
