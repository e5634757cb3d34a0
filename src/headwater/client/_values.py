"""The values of a feed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[T]):
    """The newest items, oldest first, as the REST half of the feed gives them.

    Attributes:
        collection: the name of the items in the REST body, such as ``logs``.
        items: the JSON objects, converted with ``item=``.
        start: ``before=start`` is the page that comes just before.
        position: where the snapshot ends.
        has_more: whether there are older items.
    """

    collection: str
    items: Sequence[T]
    start: str | None
    position: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """A new item; in a keyed feed, it replaces the one with the same key.

    Attributes:
        event: the feed's event name, such as ``log``.
        data: the JSON object, converted with ``item=``.
        position: ``last_event_id=position`` continues after this item. If several items belong
            together, only the last of them has a new position.
    """

    event: str
    data: T
    position: str


@dataclass(frozen=True, slots=True)
class Removed:
    """An item left a keyed feed.

    Attributes:
        event: the feed's event name, without ``_removed``.
        key: the item's key by name.
        position: as in ``Item``.
    """

    event: str
    key: Mapping[str, Any]
    position: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The position could not be resumed: discard all items. A snapshot follows.

    Attributes:
        reason: ``expired`` (there may be items in between that are no longer kept) or ``unknown``.
    """

    reason: str


FeedValue = Snapshot[T] | Item[T] | Removed | Reset
