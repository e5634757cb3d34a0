"""What the parts of the contract share: an engine's hooks, and a follower that records."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
import pytest_asyncio

from headwater.errors import ResetReason
from headwater.eventlog import START, Bounds, EventLog, Offset, Record


@pytest.mark.asyncio
class Harness(ABC):
    """The hooks that an engine fills in; see ``EventLogContract``."""

    patience: float = 10.0

    @abstractmethod
    async def open(self) -> EventLog:
        """A started log on empty storage."""

    async def reopen(self, log: EventLog) -> EventLog:
        """A second started log on the storage of ``log``, as another process would open it."""
        raise AssertionError(f"{log.name} says it is durable: override reopen() in the test class")

    @abstractmethod
    async def wipe(self, log: EventLog) -> None:
        """Destroy all that ``log`` has stored, without using ``log``, and let it begin anew."""

    @pytest_asyncio.fixture
    async def log(self) -> AsyncIterator[EventLog]:
        """The log of this test."""
        log = await self.open()
        try:
            yield log
        finally:
            await log.close()

    @asynccontextmanager
    async def reopened(self, log: EventLog) -> AsyncIterator[EventLog]:
        """A second log on the same storage."""
        second = await self.reopen(log)
        try:
            yield second
        finally:
            await second.close()

    async def following(self, log: EventLog, topic: str = "t") -> Recorder:
        """A recorder that follows a topic from here on."""
        recorder = Recorder(self.patience)
        await log.follow(topic, recorder)
        return recorder


class Waiting:
    """Lets a test wait for what it is given.

    Attributes:
        news: set each time something comes.
    """

    def __init__(self, patience: float = 10.0) -> None:
        self.news = asyncio.Event()
        self._patience = patience

    async def until(self, reached: Callable[[Self], bool], what: str) -> None:
        """Wait until ``reached(self)``; fails with ``what`` after the patience."""
        try:
            async with asyncio.timeout(self._patience):
                while not reached(self):
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise AssertionError(f"waited {self._patience} s for {what}; {self} came") from None


class Recorder(Waiting):
    """A follower that remembers all that it gets.

    Attributes:
        records: all that was delivered.
        resets: the resets, each with how many records had come before it.
    """

    def __init__(self, patience: float = 10.0) -> None:
        super().__init__(patience)
        self.records: list[Record] = []
        self.resets: list[tuple[ResetReason, Bounds, int]] = []

    def __str__(self) -> str:
        return f"{len(self.records)} records and {len(self.resets)} resets"

    def deliver(self, records: Sequence[Record]) -> None:
        self.records += records
        self.news.set()

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        self.resets.append((reason, bounds, len(self.records)))
        self.news.set()

    async def count(self, wanted: int) -> None:
        """Wait for this many records in all."""
        await self.until(lambda one: len(one.records) >= wanted, f"{wanted} records")


def numbers(records: Sequence[Record]) -> list[Any]:
    """The events' ``n``."""
    return [record.data["n"] for record in records]


async def read_all(log: EventLog, topic: str, after: Offset = START) -> list[Record]:
    """All kept records after an offset, read in pages."""
    records: list[Record] = []
    while page := (await log.read(topic, after, 100)).records:
        records += page
        after = page[-1].offset
    return records
