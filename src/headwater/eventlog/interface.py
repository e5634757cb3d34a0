"""The event log: an append-only, ordered store of events by topic, on an existing engine.

How a reader joins history to live, on every engine: ``follow`` first, which returns bounds; then
``read`` up to ``bounds.latest``. Every later record is delivered to the follower. Nothing is
missing in between and nothing comes twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, Self

from headwater.errors import ResetReason
from headwater.eventlog.record import MAX_EVENT_BYTES, Bounds, Capabilities, Offset, Record, Run
from headwater.eventlog.topic import Topic

__all__ = ["EventLog", "Follower"]


class Follower(Protocol):
    """Receives the records of a topic. Called in the event loop; its exceptions are logged.

    A method must not block.
    """

    def deliver(self, records: Sequence[Record]) -> None:
        """The next records, at least one, in the topic's order."""
        ...

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """This follower lost records; the next record comes after ``bounds.latest``.

        ``expired``: they were trimmed before it had them. ``unknown``: the storage is another one.
        """
        ...


class EventLog(ABC):
    """One log. A process has one reader for all its topics, however many are followed.

    A topic begins with its first append. Names have 1 to 200 characters of ``0-9 A-Z a-z . _ : /
    @ -``. Every method but ``close`` raises SourceUnavailableError while the engine is away. For
    what can never work it raises UsageError, and nothing was appended.
    """

    name: str
    capabilities: Capabilities
    max_event_bytes: int = MAX_EVENT_BYTES

    async def start(self) -> None:  # noqa: B027 - an engine without I/O has nothing to open
        """Open the engine and create what is missing. The other methods do so at first use."""

    @abstractmethod
    async def append(
        self,
        topic: str,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        connection: Any = None,
    ) -> list[Record]:
        """Append one event or many, all or none, next to each other, and return their records.

        A retry with a ``key`` that the topic knows appends nothing. It returns the first records,
        as far as they are kept. With ``connection`` (``capabilities.transactional``) the append
        joins the caller's transaction: it is published if, and only if, that commits.
        """

    @abstractmethod
    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        """The first records after an offset. Compare the offset with the bounds: see ``Bounds``."""

    @abstractmethod
    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        """The latest records, or the latest of those below ``before``. Oldest first."""

    @abstractmethod
    async def bounds(self, topic: str) -> Bounds:
        """The epoch and the offsets that can be resumed at."""

    @abstractmethod
    async def follow(self, topic: str, follower: Follower) -> Bounds:
        """Deliver every record after the returned ``latest`` to ``follower``.

        When the engine goes away later, the log retries with back-off. Nothing that the engine
        kept is lost.
        """

    @abstractmethod
    async def unfollow(self, topic: str, follower: Follower) -> None:
        """Stop. Nothing is delivered once this returns. An unknown follower is no error."""

    @abstractmethod
    async def trim(
        self,
        topic: str | None = None,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
    ) -> int:
        """Remove the oldest records of a topic, or of each, beyond any of the limits.

        Returns how many. ``max_bytes`` counts the events' JSON and needs
        ``capabilities.trim_by_size``.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop following and close what was opened. Idempotent."""

    def topic(self, name: str) -> Topic:
        """A source for a feed. Sources of one topic share one origin while any is in use."""
        return Topic(self, name)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()
