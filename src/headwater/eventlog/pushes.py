"""What an engine pushes to a process that follows topics, and what the reader needs of it.

For engines that can tell what was appended to one topic without being asked, at most once: a push
may be lost, so each says which record it follows on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from headwater.eventlog.record import Bounds, Offset, Record, Run

__all__ = ["Engine", "Push", "Pushes", "Receiver", "States"]


@dataclass(frozen=True, slots=True)
class Push:
    """Something was appended to a topic.

    Attributes:
        topic: its name.
        before: the topic's latest offset before; a reader that is elsewhere has missed something.
        last: the latest offset now.
        records: all that lies between the two; None when they are to be read.
        head: how far the whole log had come, as in ``States``.
        epoch: the log's, where the engine can say it.
    """

    topic: str
    before: Offset
    last: Offset
    records: Sequence[Record] | None
    head: int
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class States:
    """The log at one moment.

    Attributes:
        epoch: of the log.
        head: rises with each append to any topic. Lower than before: it is an older copy.
        topics: the bounds of the topics that were asked for.
    """

    epoch: str
    head: int
    topics: Mapping[str, Bounds]


class Receiver(Protocol):
    """Who is pushed to. Called in the event loop."""

    def take(self, push: Push) -> None:
        """Something was appended to a topic that is subscribed."""
        ...

    def lost(self, error: Exception) -> None:
        """Nothing is pushed any more: open anew."""
        ...


class Pushes(Protocol):
    """One life of the connection that is pushed to. Raises SourceUnavailableError."""

    async def subscribe(self, topics: Sequence[str]) -> None:
        """What is appended to them after this returns is pushed."""
        ...

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Soon nothing of them is pushed."""
        ...

    async def ping(self) -> None:
        """Raises when the connection is dead without having said so."""
        ...

    async def close(self) -> None:
        """Free it."""
        ...


class Engine(Protocol):
    """What the reader asks of an engine. All but ``name`` raise SourceUnavailableError."""

    name: str

    async def listen(self, receiver: Receiver) -> Pushes:
        """Open the pushes, of no topic yet."""
        ...

    async def states(self, topics: Sequence[str]) -> States:
        """The state of the log and of these topics, not older than this call."""
        ...

    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        """As EventLog."""
        ...

    async def begin_anew(self, epoch: str) -> None:
        """Give the log another epoch, unless somebody else did so to this one."""
        ...
