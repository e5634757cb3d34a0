"""Where a feed's items come from: the interface between storage and delivery.

An **origin** is what one reader follows: a SQL table, a topic of an event log, a polled function.
A **source** is a selection of an origin: its filter, its time window. Many sources share one
origin, and a process reads each origin once, however many streams there are.

How history joins live, for every kind of source: the hub attaches to the origin (from then on
every later change is handed over), reads pages up to a place the hand-over reaches, and goes on
with what was handed over, leaving out each change that the last page's place ``includes``. So an
origin owes two things. ``attach`` returns a place; every change after that place is delivered,
once, in the origin's order. A page's ``end`` includes exactly what a client that was given the
page (and all before it) has.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, Self

from headwater.errors import ResetReason

__all__ = [
    "EVERYTHING",
    "Change",
    "Filter",
    "OrderedPlace",
    "Origin",
    "Page",
    "Place",
    "Sink",
    "Source",
    "Window",
]


class Place(Protocol):
    """A place in an origin's order. ``str()`` gives the text that a position carries."""

    def includes(self, other: Self, /) -> bool:
        """Whether a client at this place has every change up to and including ``other``."""
        ...

    def has(self, other: Self, /) -> bool:
        """Whether a client at this place has the very change that ends at ``other``.

        With one order for all it is the same as ``includes``. Where transactions commit in another
        order than they are numbered, a client may have a change without all that is before it.
        """
        ...

    def since(self, base: Self, /) -> Self:
        """This place, for a client that began at ``base`` and was sent what it did not have there.

        With one order for all it is the place itself.
        """
        ...

    def at(self, told: datetime | None, /) -> Self:
        """The same place with the moment up to which a window's leavers were told.

        Origins whose sources never have a window may return themselves.
        """
        ...


class OrderedPlace(ABC):
    """What the places of an origin with one order for all have in common."""

    __slots__ = ()

    @abstractmethod
    def includes(self, other: Self, /) -> bool:
        """As Place."""

    def has(self, other: Self, /) -> bool:
        """As Place."""
        return self.includes(other)

    def since(self, base: Self, /) -> Self:  # noqa: ARG002 - it makes no difference here
        """As Place."""
        return self

    def at(self, told: datetime | None, /) -> Self:  # noqa: ARG002 - for origins without windows
        """As Place."""
        return self


@dataclass(slots=True, eq=False)
class Change:
    """One thing that happened in an origin.

    Attributes:
        place: where it is; a client that was sent this change is at this place. None for a change
            that a client may not resume from, such as the first of several that belong together.
        values: what filters look at, by name. For a row: its columns by attribute name.
        item: what the feed's item model is made from; None for a removal.
        removed: the item with this key left: it was deleted, or no longer has these ``values``.
        key: the key by name, such as ``{"id": 7}``; None in an append-only origin.
        moment: for a source with a window, the value of the window's column, UTC.
        values_now: for a removal, the values that the item has now, if it is still in the origin.
            A filter that matches them gets no removal.
    """

    place: Place | None
    values: Mapping[str, Any]
    item: Any = None
    removed: bool = False
    key: Mapping[str, Any] | None = None
    moment: datetime | None = None
    values_now: Mapping[str, Any] | None = None
    # Its JSON by feed, where several may want it.
    encoded: dict[Hashable, bytes] = field(default_factory=dict, repr=False)


class Sink(Protocol):
    """Where an origin hands over what happens. Called in the event loop; never blocks."""

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        """Take the changes up to ``head``, in order. Empty when only the head moved."""
        ...

    def failed(self) -> None:
        """The origin could not be read just now; it tries again by itself."""
        ...

    def retire(self, before: Place) -> None:
        """Positions that do not include ``before`` expire soon: move on who still holds one."""
        ...

    def reset(self, reason: ResetReason, head: Place) -> None:
        """The origin can no longer go on from its last place: every stream starts anew.

        ``expired``: it was trimmed past the reader. ``unknown``: the storage is another one.
        """
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """A run of changes, oldest first.

    Attributes:
        changes: at most the limit asked for. Removals occur only in pages of a keyed source that
            were asked for with ``after``.
        start: a page asked for with ``before=start`` is the one that comes just before.
        end: a client that was given this page is here. With ``after``: once ``has_more`` is False
            it is the origin's head as of the read, so that a quiet feed's position moves on.
        has_more: further items in the direction asked: newer with ``after``, older otherwise.
        epoch: the epoch that was read, from the same statement as the rows where there is one.
        as_of: for a source with a window, the moment by which the window was looked at, UTC.
    """

    changes: Sequence[Change]
    start: Place
    end: Place
    has_more: bool
    epoch: str
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A time window: items whose moment is more than ``length`` ago are not in the feed."""

    column: str
    length: timedelta


Conjunction = tuple[tuple[str, Hashable], ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """A union of conjunctions of equalities: ``any_of=((("user_id", 7), ("level", "error")),)``.

    Each conjunction is sorted by name. ``((),)`` lets everything through, ``()`` nothing.
    Equal filters compare equal, and streams with equal filters share all work.
    """

    any_of: tuple[Conjunction, ...] = ((),)

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether ``values`` has all the values of at least one conjunction."""
        return any(
            all(values.get(name) == wanted for name, wanted in conjunction)
            for conjunction in self.any_of
        )

    @classmethod
    def of(cls, **equalities: Any) -> Filter:
        """A filter from keywords. None leaves a name out; a list, tuple or set means any of it.

        >>> Filter.of(user_id=7, level=["error", "warning"], source=None).any_of
        ((('level', 'error'), ('user_id', 7)), (('level', 'warning'), ('user_id', 7)))
        """
        choices: list[list[tuple[str, Hashable]]] = []
        for name in sorted(equalities):
            wanted = equalities[name]
            if wanted is None:
                continue
            if isinstance(wanted, (list, tuple, set, frozenset)):
                unique = dict.fromkeys(sorted(wanted, key=repr))
                choices.append([(name, value) for value in unique])
            else:
                choices.append([(name, wanted)])
        return cls(tuple(dict.fromkeys(itertools.product(*choices))))

    def __or__(self, other: Filter) -> Filter:
        return Filter(tuple(sorted({*self.any_of, *other.any_of}, key=repr)))

    def __and__(self, other: Filter) -> Filter:
        both: dict[Conjunction, None] = {}
        for left in self.any_of:
            for right in other.any_of:
                merged = dict(left)
                if all(merged.setdefault(name, value) == value for name, value in right):
                    both[tuple(sorted(merged.items()))] = None
        return Filter(tuple(both))


EVERYTHING = Filter()


class Origin(ABC):
    """What one reader in a process follows.

    Attributes:
        name: for logs, metrics and error messages, such as ``"table logs"``.
        linger: seconds that the hub stays attached after the last stream has left, so that clients
            which reconnect find everything warm. 0 detaches at once.
    """

    name: str
    linger: float = 15.0

    @abstractmethod
    async def attach(self, sink: Sink, /) -> Place:
        """Begin to follow. Raises SourceUnavailableError when the storage is away.

        Every change after the returned place goes to ``sink``. Storage that goes away later is the
        origin's own to cope with: it retries with back-off while the sink waits.
        """

    @abstractmethod
    async def detach(self) -> None:
        """Stop following and free what it took. ``attach`` may follow."""

    @abstractmethod
    async def epoch(self) -> str:
        """The storage's present epoch, from memory while attached."""


class Source(ABC):
    """A selection of an origin, as a feed's handler returns it.

    Attributes:
        origin: what is followed; the same object for all selections of it in a process.
        filter: the items of the feed.
        window: a time window, or None.
        keyed: an item with a known key replaces the old one, and items can leave.
    """

    __slots__ = ()

    origin: Origin
    filter: Filter = EVERYTHING
    window: Window | None = None
    keyed: bool = False

    @property
    def identity(self) -> Hashable:
        """Equal for sources that select the same; streams of equal sources share their work."""
        return (id(self.origin), self.filter, self.window)

    @abstractmethod
    async def page(
        self, limit: int, *, after: Place | None = None, before: Place | None = None
    ) -> Page:
        """The newest items, those just after a place, or the page that ends just before one.

        ``limit`` is at least 1. At most one of ``after`` and ``before`` is given. Raises
        PositionError when the place cannot be served (expired), and SourceUnavailableError. No
        connection is held once it returns.
        """

    @abstractmethod
    async def locate(self, epoch: str, place: str) -> Place:
        """Read the text of a place as clients hold it, and check that it can be resumed.

        Raises PositionError: ``unknown`` when the text is not one of this origin's, the epoch is
        not the present one or the place lies in the future; ``expired`` when what comes after it
        is no longer kept.
        """

    def check_fields(self, names: Iterable[str]) -> None:  # noqa: B027 - few sources know
        """Check the fields that a feed's item model takes from an item, once it is declared.

        Raises DeclarationError for a field that no item of this source has.
        """

    async def revision(self) -> Hashable | None:
        """What is equal for as long as all pages are; None where asking costs as much as a page.

        Asked before a page is read, it tells later whether the page would be the same now.
        """
        return None

    async def members(self) -> Sequence[tuple[Mapping[str, Any], datetime]]:
        """For a source with a window: the key and moment of each item in it now."""
        return ()
