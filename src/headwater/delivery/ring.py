"""A channel's ring: the frames that its streams may still have to send, each with its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from headwater.feeds.source import Place

__all__ = ["Entry", "Ring", "pieces", "with_places"]


@dataclass(slots=True, eq=False)
class Entry:
    """One frame. Never changed.

    Attributes:
        data: the framed bytes, shared by all streams.
        place: where it is, or None for one that a client may not resume from: the first ones of
            several that belong together, of which the last has the place.
        left: for an item that left a time window, when it did.
    """

    data: bytes
    place: Place | None
    left: datetime | None = None


def with_places(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Place | None]]:
    """Each entry with the place of what it belongs to, if that is here."""
    known, place = -1, None
    for at, entry in enumerate(entries):
        if entry.place is not None or entry.left is not None:
            yield entry, entry.place
            continue
        if at > known:
            later = range(at + 1, len(entries))
            known = next((n for n in later if entries[n].place is not None), len(entries))
            place = entries[known].place if known < len(entries) else None
        yield entry, place


def pieces(entries: Sequence[Entry], most: int) -> Iterator[Sequence[Entry]]:
    """Runs of at most so many bytes, or one entry: who does not keep up is given no more."""
    start = size = 0
    for at, entry in enumerate(entries):
        if size and size + len(entry.data) > most:
            yield entries[start:at]
            start, size = at, 0
        size += len(entry.data)
    yield entries[start:]


class Ring:
    """A bounded run of entries, numbered on from 0. The oldest are dropped from the front.

    Attributes:
        first: the number of the oldest entry that is still here.
        end: the number that the next entry will get.
        floor: the place from which on nothing has been dropped.
        floor_left: the same for items that left a time window.
    """

    __slots__ = ("_entries", "_gone", "end", "first", "floor", "floor_left")

    def __init__(self, floor: Place, floor_left: datetime | None = None) -> None:
        # A list once there is an entry: rings of quiet feeds are many.
        self._entries: list[Entry] | tuple[()] = ()
        self._gone = 0
        self.first = self.end = 0
        self.floor = floor
        self.floor_left = floor_left

    @property
    def last(self) -> Entry:
        """The newest entry."""
        assert self._entries
        return self._entries[-1]

    def append(self, entry: Entry) -> None:
        if isinstance(self._entries, tuple):
            self._entries = []
        self._entries.append(entry)
        self.end += 1

    def since(self, number: int) -> list[Entry]:
        """The entries from ``number`` on."""
        found = self._entries[number - self.first + self._gone :]
        return found if isinstance(found, list) else []

    def before(self, number: int) -> Place:
        """The place of a client that was sent everything before ``number``."""
        at = number - self.first + self._gone - 1
        while at >= self._gone:
            place = self._entries[at].place
            if place is not None:
                return place
            at -= 1
        return self.floor

    def lacking(self, place: Place) -> int:
        """The number of the first entry that a client at ``place`` may lack.

        Each entry's place includes all entries before it. So who was away for a moment is found
        from the end, without a look at all that is kept. For rings without a time window.
        """
        at = len(self._entries)
        while at > self._gone:
            known = self._entries[at - 1].place
            if known is not None and place.includes(known):
                break
            at -= 1
        return self.first + at - self._gone

    def drop_first(self) -> None:
        """Drop the oldest entry."""
        entry = self._entries[self._gone]
        if entry.left is not None:
            self.floor_left = entry.left
        elif entry.place is not None:
            self.floor = entry.place
        self._gone += 1
        self.first += 1
        # Taking from the front of a list moves all that follows; in halves it costs nothing.
        if self._gone > 64 and self._gone * 2 > len(self._entries):
            self._entries = list(self._entries[self._gone :])
            self._gone = 0

    def clear(self, floor: Place) -> None:
        """Drop everything: the storage is another one."""
        self.first = self.end
        self._entries = ()
        self._gone = 0
        self.floor = floor
        self.floor_left = None
