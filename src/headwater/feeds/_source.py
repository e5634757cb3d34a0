"""Where a feed's items come from: the interface between storage and delivery.

An **origin** is a SQL table, a topic of an event log or a polled function. A **source** is a
selection of an origin, by a filter and a time window. Many sources share one origin, and a process
reads each origin once, however many streams there are.

How history joins live, for every kind of source: the hub attaches to the origin, which delivers
every change from then on. The hub reads pages until one ends at a place from which it has all
delivered changes. It goes on with these, without each change that the last page's end ``includes``.

So an origin guarantees two things. ``attach`` returns a place; every change after that place is
delivered once, in the origin's order. A page's ``end`` includes exactly what a client has that was
sent the page and all before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol, Self

from headwater.errors import DeclarationError, ResetReason, SourceUnavailableError
from headwater.feeds._filter import EVERYTHING, JUDGED, Compared, Conjunction, Filter, Judged, OneOf

__all__ = [
    "EVERYTHING",
    "Change",
    "Compared",
    "Conjunction",
    "Filter",
    "Judged",
    "OneOf",
    "OrderedPlace",
    "Origin",
    "Page",
    "Place",
    "JUDGED",
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
        """This place, for a client that began at ``base`` and was sent all that it lacked there.

        With one order for all it is the place itself.
        """
        ...

    def at(self, moment: datetime | None, /) -> Self:
        """This place, for a client that was sent all removals from a time window up to ``moment``.

        Places of origins whose sources have no window may return themselves.
        """
        ...


class OrderedPlace(ABC):
    """The base of places of an origin with one order for all clients."""

    __slots__ = ()

    @abstractmethod
    def includes(self, other: Self, /) -> bool:
        """As Place."""

    def has(self, other: Self, /) -> bool:
        """As Place."""
        return self.includes(other)

    def since(self, base: Self, /) -> Self:  # it makes no difference here
        """As Place."""
        return self

    def at(self, moment: datetime | None, /) -> Self:  # for origins without windows
        """As Place."""
        return self


@dataclass(slots=True, eq=False)
class Change:
    """One thing that happened in an origin.

    Attributes:
        place: the place of a client that was sent this change, or None if a client may not resume
            from it. Of several changes that belong together only the last has a place.
        values: what filters compare, by name. For a row: its columns by attribute name.
        item: what the feed's item model is made from; None for a removal.
        removed: the item with this key left: it was deleted, or no longer has these ``values``.
        key: the key by name, such as ``{"id": 7}``; None in an append-only origin.
        moment: for a source with a window, the value of the window's column, UTC.
        named: the names of ``values`` that name an item of an append-only origin in a log.
        values_now: for a removal, the values that the item has now, if it is still in the origin.
            A filter that matches them gets no removal.
    """

    place: Place | None
    values: Mapping[str, Any]
    item: Any = None
    removed: bool = False
    key: Mapping[str, Any] | None = None
    moment: datetime | None = None
    named: Sequence[str] = ()
    values_now: Mapping[str, Any] | None = None
    # By feed: its JSON, and its frame with the epoch that the frame names.
    encoded: dict[Hashable, bytes] = field(default_factory=dict, repr=False)
    framed: dict[Hashable, tuple[str, Any]] = field(default_factory=dict, repr=False)
    # By feed: what its item function made of the item.
    made: dict[Hashable, Any] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The item for a log: by its key, never by its values."""
        key = self.key or {name: self.item[name] for name in self.named if self.item is not None}
        if key:
            return "the item " + ", ".join(f"{name}={value!r:.100}" for name, value in key.items())
        return "an item" if self.place is None else f"the item at {self.place}"


class Sink(Protocol):
    """What an origin delivers its changes to. Called in the event loop; never blocks."""

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        """Take the changes up to ``head``, in order. Empty when only the head moved."""
        ...

    def failed(self) -> None:
        """The origin could not be read. It retries by itself."""
        ...

    def interrupt(self, why: SourceUnavailableError) -> None:
        """End the streams where they are; they come back.

        The origin cannot be read until somebody mends it, or filters mean something else.
        """
        ...

    def retire(self, before: Place) -> None:
        """Positions that do not include ``before`` expire soon: send open streams a newer one."""
        ...

    def wanted(self, names: Collection[str]) -> Mapping[str, frozenset[Hashable]]:
        """By name, the values that the filters of its streams compare these names with."""
        ...

    def replace(self, head: Place) -> None:
        """The whole state of the origin is another one: every stream gets a new snapshot."""
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
        as_of: for a source with a window, the moment for which the window was computed, UTC.
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


class Origin(ABC):
    """A table, topic or function that one reader in a process follows.

    Attributes:
        name: for logs, metrics and error messages, such as ``"table logs"``.
        linger: seconds that the hub stays attached after the last stream has left, so that clients
            which reconnect find the latest changes in memory. 0 detaches at once.
        wakes: sources that it depends on: ``woken`` is called when these change, while the origin
            is followed.
    """

    name: str
    linger: float = 15.0
    wakes: Sequence[Source] = ()

    def woken(self) -> None:  # few origins have any
        """One of ``wakes`` has changed."""

    @abstractmethod
    async def attach(self, sink: Sink, /) -> Place:
        """Begin to follow. Raises SourceUnavailableError when the storage is away.

        Every change after the returned place goes to ``sink``. If the storage goes away later, the
        origin retries with back-off while the sink waits.
        """

    @abstractmethod
    async def detach(self) -> None:
        """Stop following and free what ``attach`` took. ``attach`` may be called again."""

    @abstractmethod
    async def epoch(self) -> str:
        """The storage's present epoch, from memory while attached."""

    async def ready(self, wanted: Filter) -> None:  # few origins ask their storage
        """Wait until the changes that are delivered next say whether this filter takes them.

        The hub calls it once a stream with the filter is there, before the stream reads a page.
        Raises FilterValueError for a value that the storage refuses.
        """


class Source(ABC):
    """A selection of an origin, as a feed's handler returns it.

    Attributes:
        origin: the same object for all selections of it in a process.
        filter: the items of the feed.
        window: a time window, or None.
        keyed: an item with a known key replaces the old one, and items can leave.
        replaced: a change of it is a new snapshot, also for a client that comes back.
    """

    __slots__ = ()

    origin: Origin
    filter: Filter = EVERYTHING
    window: Window | None = None
    keyed: bool = False
    replaced: bool = False

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> Any:
        """Refuse to be a value of a response, which frameworks ask pydantic about."""
        raise DeclarationError(
            "a Source is what the handler of a feed returns: write @live.feed(path, item=...)"
        )

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

    def nothing(self) -> Place | None:
        """The place of a client that has no item: the pages after it have all items there are.

        None: only the newest items of this source can be read.
        """
        return None

    async def exceeds(self, count: int) -> bool:  # for sources with nothing()
        """Whether there are more than ``count`` items now."""
        return False

    def check_fields(self, names: Iterable[str]) -> None:  # few sources know
        """Check the fields that a feed's item model takes from an item, once it is declared.

        Raises DeclarationError for a field that no item of this source has.
        """

    async def revision(self) -> Hashable | None:
        """A value that stays equal while all pages do; None if it costs as much as a page.

        If it was the same before a page was read as it is now, the page is still current.
        """
        return None

    async def members(self) -> Sequence[tuple[Mapping[str, Any], datetime]]:
        """For a source with a window: the key and moment of each item in it now."""
        return ()
