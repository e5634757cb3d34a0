"""Following a log: followers join and leave topics, and one task reads for all of them.

The readers of all engines share this. On SQL they read committed records; on Redis and NATS the
server pushes new records.
"""

from __future__ import annotations

import asyncio
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from headwater.errors import HeadwaterError, ResetReason, UsageError
from headwater.eventlog._home import Home
from headwater.eventlog._interface import Follower
from headwater.eventlog._record import Bounds, Offset, Record

_log = logging.getLogger(__name__)

# Seconds between two tries while the engine is away: few at first, because a restart is short.
SHORTEST, LONGEST = 0.1, 5.0


def notify(topic: str, call: Callable[..., None], *what: object) -> None:
    """Call a follower's method; an exception of the follower is logged."""
    try:
        call(*what)
    except Exception:
        _log.exception("a follower of topic %s failed", topic)


@dataclass(slots=True, eq=False)
class FollowedTopic:
    """A topic, its followers, and how far they are.

    Attributes:
        name: the topic's name.
        last: every follower has the records up to this offset, and none after it.
        mark: the mark of the record at ``last``; empty if there is none.
        followers: the followers that get the records.
    """

    name: str
    last: Offset
    mark: str = ""
    followers: list[Follower] = field(default_factory=list)

    def deliver(self, records: Sequence[Record]) -> None:
        """Deliver the records that are new. None may be missing between ``last`` and the first."""
        news = [record for record in records if record.offset > self.last]
        if news:
            self.last, self.mark = news[-1].offset, news[-1].mark
            for follower in tuple(self.followers):
                notify(self.name, follower.deliver, news)

    def advance(self, last: Offset, mark: str) -> None:
        """Note that all up to ``last``, the offset of a record with this mark, is delivered."""
        if last > self.last:
            self.last, self.mark = last, mark

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """Reset the followers. They continue after ``bounds.latest``."""
        self.last, self.mark = bounds.latest, bounds.mark
        for follower in tuple(self.followers):
            notify(self.name, follower.reset, reason, bounds)

    def lost(self, bounds: Bounds, found: str | None) -> bool:
        """Reset the followers if the topic does not continue where they stopped. True then.

        ``found`` is the mark of the record at ``last``; None if there is none.
        """
        reason = bounds.loss(self.last, self.mark, found)
        if reason is not None:
            self.reset(reason, bounds)
        elif found is None:
            self.mark = ""  # the log trimmed it
        return reason is not None


@dataclass(slots=True, eq=False)
class _Joining:
    """A follower that waits for its bounds.

    Attributes:
        topic: what it follows.
        follower: the follower.
        bounds: the future that its caller waits for.
        left: it does not follow any more.
    """

    topic: str
    follower: Follower
    bounds: asyncio.Future[Bounds]
    left: bool = False


_Topic = TypeVar("_Topic", bound=FollowedTopic)


class LogReader(ABC, Generic[_Topic]):
    """The one reader of a log in this process. Its task lives while anything is followed.

    Followers that join at the same time share one request for their bounds.

    Arguments:
        name: the log's, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._topics: dict[str, _Topic] = {}
        self._joining: dict[_Joining, None] = {}
        self._home = Home(name)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._delay = SHORTEST

    @abstractmethod
    async def _read_on(self) -> None:
        """Call ``_join``, read and deliver until nothing is followed. Raises what reading raises.

        Once the engine has answered it sets ``_delay`` to ``SHORTEST``.
        """

    @abstractmethod
    async def _enter(self, names: Sequence[str]) -> Mapping[str, Bounds]:
        """The bounds of topics, each of which is in ``_topics`` when this returns."""

    @abstractmethod
    def _left(self, topic: str) -> None:
        """The last follower of a topic has left. Wakes the task if it has something to do."""

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        """As EventLog."""
        if self._home.moved():
            self._wake = asyncio.Event()
            self._topics.clear()
        joining = _Joining(topic, follower, asyncio.get_running_loop().create_future())
        self._joining[joining] = None
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"{self._name}: reader")
        self._wake.set()
        try:
            bounds = await joining.bounds
            if joining.left:
                return bounds
            followed = self._topics[topic]
            # All followers of a topic are at one place, which may be another one than just now.
            followed.followers.append(follower)
            return replace(bounds, latest=followed.last, mark=followed.mark)
        finally:
            self._joining.pop(joining, None)
            self._drop_unused(topic)

    def unfollow(self, topic: str, follower: Follower) -> None:
        """As EventLog."""
        for one in self._joining:
            if one.topic == topic and one.follower is follower:
                one.left = True
        followed = self._topics.get(topic)
        if followed is not None:
            followed.followers = [one for one in followed.followers if one is not follower]
            self._drop_unused(topic)

    async def close(self) -> None:
        """Stop following. Nothing is delivered once this returns."""
        self._topics.clear()
        for one in self._joining:
            one.left = True
        self._refuse_joining(UsageError(f"{self._name} is closed"))
        self._wake.set()
        if self._task is not None:
            # It ends by itself: to cancel a read may cost its connection.
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._topics or self._joining:
                try:
                    await self._read_on()
                except Exception as error:
                    self._away(error)
                    if self._topics or self._joining:
                        await self._pause(self._delay * random.uniform(0.5, 1.0))
                    self._delay = min(self._delay * 2, LONGEST)
        finally:
            self._task = None
            for one in self._joining:  # only the end of the loop leaves any
                one.bounds.cancel()

    async def _join(self) -> None:
        """Give the followers that wait their bounds."""
        if not self._joining:
            return
        joining = [one for one in self._joining if not one.bounds.done()]
        names = list(dict.fromkeys(one.topic for one in joining))
        if names:
            bounds = await self._enter(names)
            for one in joining:
                if not one.bounds.done():
                    one.bounds.set_result(bounds[one.topic])
        # A follower has its bounds before its first record.
        await asyncio.sleep(0)
        for name in names:
            self._drop_unused(name)

    async def _pause(self, seconds: float) -> None:
        """Wait until ``_wake`` is set, at most for this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()

    def _away(self, error: Exception) -> None:
        """Log that the engine is away. Followers wait; those that want to join get the error."""
        if not isinstance(error, HeadwaterError):
            _log.error("%s: reading failed", self._name, exc_info=error)
        elif self._delay == SHORTEST and self._topics:
            _log.warning("%s; followers wait", error)
        self._refuse_joining(error)
        self._wake.clear()

    def _refuse_joining(self, error: Exception) -> None:
        for one in self._joining:
            if not one.bounds.done():
                one.bounds.set_exception(error)

    def _drop_unused(self, topic: str) -> None:
        followed = self._topics.get(topic)
        if followed is None or followed.followers:
            return
        if not any(one.topic == topic for one in self._joining):
            del self._topics[topic]
            self._left(topic)
