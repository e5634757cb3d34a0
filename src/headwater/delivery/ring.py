"""A channel's ring: the frames that its streams may still have to send, each with its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from headwater.feeds.source import Place

__all__ = ["Entry", "Ring", "RingBound", "pieces", "with_places"]

# Bounds of what is kept of one origin for streams that are behind or return soon. Frames of a few
# hundred bytes reach the number first. A stream that needs older ones reads the source again.
RING_ENTRIES = 32_768
RING_BYTES = 16 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Entry:
    """One frame. Never changed.

    Attributes:
        data: the framed bytes, shared by all streams.
        place: the place that the frame's id names. None if a client may not resume from here: of
            several frames that belong together only the last has a place.
        left: the moment at which the item left a time window, for a removal of that kind.
    """

    data: bytes
    place: Place | None
    left: datetime | None = None


def with_places(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Place | None]]:
    """Each entry with the place of the entries that it belongs to, if that is among these."""
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


def pieces(entries: Sequence[Entry], limit: int) -> Iterator[Sequence[Entry]]:
    """The entries in runs of at most ``limit`` bytes; a longer entry is a run of its own."""
    start = size = 0
    for at, entry in enumerate(entries):
        if size and size + len(entry.data) > limit:
            yield entries[start:at]
            start, size = at, 0
        size += len(entry.data)
    yield entries[start:]


class RingBound:
    """The bound of all rings of one origin: the oldest frames of all rings are dropped first."""

    def __init__(self) -> None:
        self._frames: deque[tuple[Ring, int]] = deque()
        self._bytes = 0

    def count(self, ring: Ring, size: int) -> None:
        """A frame of this size was appended to a ring."""
        self._frames.append((ring, size))
        self._bytes += size

    def enforce(self) -> None:
        """Drop the frames that are too many."""
        frames = self._frames
        while frames and (len(frames) > RING_ENTRIES or self._bytes > RING_BYTES):
            ring, size = frames.popleft()
            self._bytes -= size
            ring.drop_first()

    def clear(self) -> None:
        """All rings are about to be cleared."""
        self._frames.clear()
        self._bytes = 0


class Ring:
    """A run of entries, numbered on from 0. The oldest are dropped from the front.

    Attributes:
        first: the number of the oldest entry that is still here.
        end: the number that the next entry will get.
        floor: the place from which on nothing has been dropped.
        floor_left: the same for items that left a time window.
    """

    __slots__ = ("_bound", "_dropped", "_entries", "end", "first", "floor", "floor_left")

    def __init__(self, floor: Place, bound: RingBound) -> None:
        # A list once there is an entry: rings of quiet feeds are many.
        self._entries: list[Entry] | tuple[()] = ()
        self._bound = bound
        # Entries at the front of the list that were dropped already.
        self._dropped = 0
        self.first = self.end = 0
        self.floor = floor
        self.floor_left: datetime | None = None

    def append(self, entry: Entry) -> None:
        if isinstance(self._entries, tuple):
            self._entries = []
        self._entries.append(entry)
        self.end += 1
        self._bound.count(self, len(entry.data))

    def since(self, number: int) -> list[Entry]:
        """The entries from ``number`` on."""
        found = self._entries[number - self.first + self._dropped :]
        return found if isinstance(found, list) else []

    def before(self, number: int) -> Place:
        """The place of a client that was sent everything before ``number``."""
        for at in range(number - self.first + self._dropped - 1, self._dropped - 1, -1):
            place = self._entries[at].place
            if place is not None:
                return place
        return self.floor

    def first_after(self, place: Place) -> int:
        """The number of the first entry that a client at ``place`` may not have.

        Each entry's place includes all entries before it, so the search begins at the end: a
        client that was away for a moment does not cost a walk through the ring. For rings without
        a time window.
        """
        at = len(self._entries)
        while at > self._dropped:
            known = self._entries[at - 1].place
            if known is not None and place.includes(known):
                break
            at -= 1
        return self.first + at - self._dropped

    def drop_first(self) -> None:
        """Drop the oldest entry."""
        entry = self._entries[self._dropped]
        if entry.left is not None:
            self.floor_left = entry.left
        elif entry.place is not None:
            self.floor = entry.place
        self._dropped += 1
        self.first += 1
        # Deleting from the front of a list moves all that follows, so it is done rarely.
        if self._dropped > 64 and self._dropped * 2 > len(self._entries):
            self._entries = list(self._entries[self._dropped :])
            self._dropped = 0

    def clear(self, floor: Place) -> None:
        """Drop everything: the storage is another one."""
        self.first = self.end
        self._entries = ()
        self._dropped = 0
        self.floor = floor
        self.floor_left = None
