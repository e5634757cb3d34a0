"""What one kind of database does for one tracked table: the interface between it and the tail."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from headwater.feeds.source import Change, Filter, Page, Place, Window

if TYPE_CHECKING:
    from headwater.sql.shape import Shape

__all__ = ["Batch", "Follow", "Following", "Head", "Reader"]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a table is now: its epoch and the place of its latest change.

    ``trimmed``: changes up to this number, on PostgreSQL this transaction, may have been trimmed.
    """

    epoch: str
    place: Place
    trimmed: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a tail reads at once.

    Attributes:
        changes: all changes after the last place, in order, at most the limit asked for.
        head: the place they end at; the table's head unless there is more.
        retiring: positions that do not include this place expire soon; None if none do.
        held: there are changes that only time brings, as those that wait for older transactions.
    """

    changes: Sequence[Change]
    head: Place
    has_more: bool
    retiring: Place | None = None
    held: bool = False


class Follow(ABC):
    """The end of a running watch for commits."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop watching and free what it took."""


class Following(Follow):
    """A watch, and what is held for as long.

    Arguments:
        done: called first; what it returns is waited for in the end.
    """

    def __init__(self, watch: Follow, done: Callable[[], Awaitable[None]]) -> None:
        self._watch = watch
        self._done = done

    async def stop(self) -> None:
        closing = self._done()
        try:
            await self._watch.stop()
        finally:
            await closing


class Reader(ABC):
    """Reads one tracked table. One subclass per dialect.

    All reads take one statement, and hold no connection once they return. They raise
    SourceUnavailableError while the database is away and PositionError for a place that cannot
    be resumed.
    """

    shape: Shape

    @abstractmethod
    def parse(self, text: str) -> Place:
        """Read the text of a place."""

    @abstractmethod
    def beginning(self) -> Place:
        """The place before all changes."""

    @abstractmethod
    async def head(self) -> Head:
        """Where the table is now."""

    @abstractmethod
    async def locate(self, epoch: str, place: Place) -> None:
        """Raises PositionError unless the place can be resumed now."""

    @abstractmethod
    async def batch(self, epoch: str, after: Place, limit: int, *, trimmed: int = 0) -> Batch:
        """All changes after a place, for the tail.

        A place before what was trimmed is expired, unless it was trimmed up to ``trimmed`` only:
        who says so knows of that, and reads what is left.
        """

    @abstractmethod
    async def page(
        self,
        wanted: Filter,
        window: Window | None,
        limit: int,
        *,
        after: Place | None = None,
        before: Place | None = None,
    ) -> Page:
        """As ``Source.page``."""

    async def revision(self) -> Hashable | None:
        """As ``Source.revision``, for all selections without a window."""
        return None

    @abstractmethod
    async def members(
        self, wanted: Filter, window: Window
    ) -> Sequence[tuple[Mapping[str, Any], datetime]]:
        """As ``Source.members``."""

    @abstractmethod
    async def trim(
        self,
        *,
        max_age: timedelta | None,
        column: str | None,
        max_count: int | None,
        grace: float,
    ) -> int:
        """Remove what is too old, in small steps; positions before it expire.

        ``grace`` seconds before, tails are told of it, so that who follows is moved on.
        """

    @abstractmethod
    def follow(
        self,
        wake: Callable[[], None],
        known: Callable[[], Head | None],
        reach: Callable[[Place], None] | None = None,
    ) -> Follow:
        """Call ``wake`` in the event loop when something may have been committed.

        Arguments:
            known: tells where the tail is, so that it is not woken for what it has. May be called
                in any thread.
            reach: called instead, if given, where it is known up to where there is something.
        """
