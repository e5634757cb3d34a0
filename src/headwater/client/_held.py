"""The items of a feed in memory, without I/O: by key, or the newest of them."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Generic, overload

from headwater.client._items import Convert, converter
from headwater.client._options import FollowOptions
from headwater.client._values import FeedValue, Item, Removed, Snapshot, T
from headwater.errors import PeerError, UsageError

# A feed without an end must not fill the memory.
MAX_ITEMS = 100_000
NEWEST = 1_000

NOT_FOLLOWED = "changed() waits for a feed that is followed: call it in a with block"


class Held(Sized):
    """The items of a feed, of which ``apply`` takes in each value."""

    _items: Any
    _version = 0
    _failure: Exception | None = None

    @property
    def version(self) -> int:
        """How often the content has changed; 0 before the first snapshot."""
        return self._version

    @abstractmethod
    def apply(self, value: FeedValue[Any]) -> bool:
        """Take in a value of the feed; whether anything has changed. Raises PeerError."""

    def __iter__(self) -> Iterator[Any]:
        # A copy, because the feed goes on during the iteration.
        return iter(list(self._items))

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} items>"


class HeldItems(Held, Mapping[Any, T], Generic[T]):
    """The items of a keyed feed by their key. The order is that of the feed."""

    def __init__(self, key: str | Sequence[str], item: Any, max_items: int) -> None:
        names = tuple(key) if isinstance(key, (list, tuple)) else (key,)
        if not names or not all(isinstance(name, str) for name in names):
            raise UsageError(f"key={key!r}: the name of a member of each item, or several names")
        if not isinstance(max_items, int) or max_items < 1:
            raise UsageError(f"max_items={max_items}: a map holds at least 1 item")
        self._names = names
        self._max = max_items
        self._convert: Convert = converter(item) or (lambda data: data)
        self._items: dict[Any, T] = {}

    def __getitem__(self, key: Any) -> T:
        return self._items[key]

    def apply(self, value: FeedValue[Any]) -> bool:
        if isinstance(value, Snapshot):
            self._items = {self._key(item): self._convert(item) for item in value.items}
        elif isinstance(value, Item):
            self._items[self._key(value.data)] = self._convert(value.data)
        elif isinstance(value, Removed):
            self._items.pop(self._key(value.key), None)
        else:
            # The items stay until the next snapshot replaces them.
            return False
        if len(self._items) > self._max:
            raise PeerError(f"the feed holds more than max_items={self._max} items")
        return True

    def _key(self, data: Mapping[str, Any]) -> Any:
        try:
            found = tuple(data[name] for name in self._names)
            hash(found)
        except (KeyError, TypeError):
            raise PeerError(
                f"an item of the feed has no key {', '.join(self._names)}: {str(dict(data))[:200]}"
            ) from None
        return found[0] if len(found) == 1 else found


class NewestItems(Held, Sequence[T], Generic[T]):
    """The newest items of an append-only feed, oldest first. Older ones are dropped."""

    def __init__(self, keep: int) -> None:
        if not isinstance(keep, int) or keep < 1:
            raise UsageError(f"keep={keep}: a list keeps at least 1 item")
        self._items: deque[T] = deque(maxlen=keep)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        return list(self._items)[index] if isinstance(index, slice) else self._items[index]

    def apply(self, value: FeedValue[Any]) -> bool:
        if isinstance(value, Snapshot):
            self._items = deque(value.items, maxlen=self._items.maxlen)
        elif isinstance(value, Item):
            self._items.append(value.data)
        else:
            return False
        return True


def check_start(options: FollowOptions) -> None:
    """Raise UsageError for options that would skip earlier items."""
    for name in ("last_event_id", "position_file"):
        if options.get(name) is not None:
            raise UsageError(
                f"{name}: live_map() and live_list() begin with a snapshot; use follow() to "
                "continue from a position"
            )
