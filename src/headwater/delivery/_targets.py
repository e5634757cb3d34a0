"""Targets: a reader of an origin delivers changes to them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence

from headwater.delivery._preparation import Preparation
from headwater.errors import ResetReason, SourceUnavailableError
from headwater.feeds._source import Change, Filter, Place

logger = logging.getLogger("headwater.delivery")


class Target(ABC):
    """Gets changes from a reader: a channel, or a subscription of this process.

    Attributes:
        reads_pages: whether it reads pages after ``restart``, and so needs no changes that were
            delivered between reset and restart.
    """

    __slots__ = ()

    reads_pages = True
    # Changes come to it once a function has made items of them.
    preparation: Preparation | None = None

    @property
    @abstractmethod
    def name(self) -> Hashable:
        """A name. A reader has one target for each name."""

    @property
    @abstractmethod
    def filter(self) -> Filter:
        """The filter of the changes that it gets."""

    @abstractmethod
    def deliver(self, change: Change) -> None:
        """Take one change. ``flush`` follows in the next tick of the loop."""

    @abstractmethod
    def flush(self, now: float) -> None:
        """Pass on the changes since the last flush. ``now`` is the loop's time."""

    def fail(self, error: Exception) -> None:  # a callback has no streams to end
        """``deliver`` raised this error."""

    def interrupt(self, why: SourceUnavailableError) -> None:  # as above
        """As of a sink: end the streams where they are."""

    def retire(self, before: Place) -> None:  # a callback has no position
        """Positions that do not include ``before`` expire soon."""

    @abstractmethod
    def restart(self, reason: ResetReason | None, head: Place) -> None:
        """The storage is another one, or was trimmed past the reader. Continue from ``head``.

        ``reason`` is None if the whole state was replaced.
        """

    def close(self) -> None:  # a callback has nothing to free
        """The reader delivers no more changes."""


class Subscription(Target):
    """A callback in this process for the live changes of a filter.

    Arguments:
        filter: selects the changes.
        call: called with the changes of one turn of the loop.
        on_restart: called when the storage is another one, was trimmed past the reader, or cannot
            be read until somebody corrects something.

    An error in either of them is logged.
    """

    reads_pages = False

    def __init__(
        self,
        filter: Filter,
        call: Callable[[Sequence[Change]], None],
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._filter = filter
        self._call = call
        self._on_restart = on_restart
        self._changes: list[Change] = []

    @property
    def name(self) -> Hashable:
        return self

    @property
    def filter(self) -> Filter:
        return self._filter

    def deliver(self, change: Change) -> None:
        self._changes.append(change)

    def flush(self, _now: float) -> None:
        changes, self._changes = self._changes, []
        if changes:
            _notify(self._call, changes)

    def restart(self, _reason: ResetReason | None, _head: Place) -> None:
        _notify(self._on_restart)

    def interrupt(self, _: SourceUnavailableError) -> None:
        _notify(self._on_restart)


def _notify(call: Callable[..., None], *what: object) -> None:
    """Call a subscriber. Its error is logged, as the other targets must not miss anything."""
    try:
        call(*what)
    except Exception:
        logger.exception("a subscriber's callback failed")
