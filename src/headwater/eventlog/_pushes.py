"""The interface of engines that push (Redis, NATS): pushes, states and subscriptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headwater.eventlog._record import Bounds, Offset, Record


@dataclass(frozen=True, slots=True)
class Push:
    """The engine's message about an append to a topic. It may get lost.

    Attributes:
        topic: the topic's name.
        before: the topic's latest offset before the append. A reader at another offset has missed
            records.
        mark: the mark of the record at ``before``, if the engine sends it.
        last: the latest offset after it.
        records: all records between the two; None if the reader must read them.
        head: that of the log after it, as in ``States``.
        epoch: the log's epoch, if the engine sends it.
    """

    topic: str
    before: Offset
    last: Offset
    records: Sequence[Record] | None
    head: int
    epoch: str | None = None
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class States:
    """The log at one moment.

    Attributes:
        epoch: the log's epoch.
        head: a number that rises with each append to any topic. If it is lower than before, the
            storage is an older copy.
        topics: the bounds of the topics that were asked for.
    """

    epoch: str
    head: int
    topics: Mapping[str, Bounds]


class Subscriptions(Protocol):
    """One connection that receives pushes until it breaks. Raises SourceUnavailableError."""

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe to topics. The server pushes every append after this call has returned."""
        ...

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Unsubscribe from topics. A few more pushes may still come."""
        ...

    async def ping(self) -> None:
        """Raise if the connection is dead, which it may not have reported."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...
