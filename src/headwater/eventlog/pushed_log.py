"""What logs on servers that push (Redis, NATS) have in common."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog.checked import CheckedLog
from headwater.eventlog.interface import Follower
from headwater.eventlog.push_reader import PushReader, States, Subscriptions
from headwater.eventlog.record import Bounds, Capabilities, Retention, check_topic

__all__ = ["PushedLog"]


class PushedLog(CheckedLog):
    """An event log on a server that remembers keys for a time and pushes what is appended.

    Attributes:
        closed: further use raises UsageError.
        topics_per_request: topics whose state one request asks for.
        trims_at_once: topics that are trimmed at the same time.
    """

    closed = False
    topics_per_request: int
    trims_at_once: int

    def __init__(self, keys_kept: timedelta, max_batch: int) -> None:
        if keys_kept < timedelta(seconds=1):
            raise UsageError(f"keys_kept={keys_kept}: a retry needs at least a second")
        self.capabilities = Capabilities(
            durable=True,
            multi_process=True,
            transactional=False,
            trim_by_size=True,
            max_batch=max_batch,
            keys_kept=keys_kept,
        )
        self._reader = PushReader(self)

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        check_topic(topic)
        if self.closed:
            raise UsageError(f"{self.name} is closed")
        return await self._reader.follow(topic, follower)

    async def unfollow(self, topic: str, follower: Follower) -> None:
        self._reader.unfollow(topic, follower)

    async def close(self) -> None:
        self.closed = True
        await self._reader.close()

    async def states(self, topics: Sequence[str]) -> States:
        """As PushingLog."""
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
        names = await self._topics_to_trim(keep)
        removed = 0
        for start in range(0, len(names), self.trims_at_once):
            part = names[start : start + self.trims_at_once]
            removed += sum(await asyncio.gather(*(self._trim_topic(name, keep) for name in part)))
        return removed

    @abstractmethod
    async def listen(self, reader: PushReader) -> Subscriptions:
        """As PushingLog."""

    @abstractmethod
    async def begin_anew(self, epoch: str) -> None:
        """As PushingLog."""

    @abstractmethod
    async def _states(self, topics: Sequence[str]) -> States:
        """The state of the log and of so many topics as one request asks for."""

    @abstractmethod
    async def _topics_to_trim(self, keep: Retention) -> Sequence[str]:
        """The topics that may have something to remove."""

    @abstractmethod
    async def _trim_topic(self, topic: str, keep: Retention) -> int: ...
