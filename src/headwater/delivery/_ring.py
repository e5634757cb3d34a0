"""A channel's ring: the frames that its streams may still have to send, each with its place."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime

from headwater.feeds._feed import Frame
from headwater.feeds._source import Place

# How many frames and bytes of one origin are kept for streams that are behind or return soon.
# Frames of a few hundred bytes reach the number first. A stream that needs older frames reads the
# source again.
RING_FRAMES = 32_768
RING_BYTES = 16 * 1024 * 1024


def with_places(frames: Sequence[Frame]) -> Iterator[tuple[Frame, Place | None]]:
    """Each frame with the place of the frames that it belongs to, if that is among these."""
    known, place = -1, None
    for at, frame in enumerate(frames):
        if frame.place is not None or frame.left is not None:
            yield frame, frame.place
            continue
        if at > known:
            later = range(at + 1, len(frames))
            known = next((n for n in later if frames[n].place is not None), len(frames))
            place = frames[known].place if known < len(frames) else None
        yield frame, place


def pieces(frames: Sequence[Frame], limit: int) -> Iterator[Sequence[Frame]]:
    """The frames in runs of at most ``limit`` bytes; a longer frame is a run of its own."""
    start = size = 0
    for at, frame in enumerate(frames):
        if size and size + len(frame.data) > limit:
            yield frames[start:at]
            start, size = at, 0
        size += len(frame.data)
    yield frames[start:]


class RingBound:
    """The bound of all rings of one origin: the oldest frames of all rings are dropped first."""

    def __init__(self) -> None:
        self._order: deque[tuple[Ring, int]] = deque()
        self._bytes = 0

    def count(self, ring: Ring, size: int) -> None:
        """A frame of this size was appended to a ring."""
        self._order.append((ring, size))
        self._bytes += size

    def enforce(self) -> None:
        """Drop the frames that are too many."""
        order = self._order
        while order and (len(order) > RING_FRAMES or self._bytes > RING_BYTES):
            ring, size = order.popleft()
            self._bytes -= size
            ring.drop_first()

    def clear(self) -> None:
        """Forget all frames, before all rings are cleared."""
        self._order.clear()
        self._bytes = 0


class Ring:
    """A row of frames, numbered from 0. The oldest are dropped from the front.

    Attributes:
        first: the number of the oldest frame that is still here.
        end: the number that the next frame will get.
        floor: the place from which on nothing has been dropped.
        floor_left: the same for items that left a time window.
    """

    __slots__ = ("_bound", "_dropped", "_frames", "end", "first", "floor", "floor_left")

    def __init__(self, floor: Place, bound: RingBound) -> None:
        # A list once there is a frame: rings of quiet feeds are many.
        self._frames: list[Frame] | tuple[()] = ()
        self._bound = bound
        # Frames at the front of the list that were dropped already.
        self._dropped = 0
        self.first = self.end = 0
        self.floor = floor
        self.floor_left: datetime | None = None

    def append(self, frame: Frame) -> None:
        if isinstance(self._frames, tuple):
            self._frames = []
        self._frames.append(frame)
        self.end += 1
        self._bound.count(self, len(frame.data))

    def since(self, number: int) -> list[Frame]:
        """The frames from ``number`` on."""
        found = self._frames[number - self.first + self._dropped :]
        return found if isinstance(found, list) else []

    def before(self, number: int) -> Place:
        """The place of a client that was sent everything before ``number``."""
        for at in range(number - self.first + self._dropped - 1, self._dropped - 1, -1):
            place = self._frames[at].place
            if place is not None:
                return place
        return self.floor

    def first_after(self, place: Place) -> int:
        """The number of the first frame that a client at ``place`` may not have.

        Each frame's place includes all frames before it, so the search begins at the end: a
        client that was away for a moment does not cost a walk through the ring. For rings without
        a time window.
        """
        at = len(self._frames)
        while at > self._dropped:
            known = self._frames[at - 1].place
            if known is not None and place.includes(known):
                break
            at -= 1
        return self.first + at - self._dropped

    def drop_first(self) -> None:
        """Drop the oldest frame, if there is one."""
        if self._dropped >= len(self._frames):
            return
        frame = self._frames[self._dropped]
        left = frame.left or frame.shown_until
        if left is not None and (self.floor_left is None or left > self.floor_left):
            self.floor_left = left
        place = frame.place
        # A channel that was just made knows nothing of what is before its own floor.
        if frame.left is None and place is not None and place.includes(self.floor):
            self.floor = place
        self._dropped += 1
        self.first += 1
        # Deleting from the front of a list moves all that follows, so it is done rarely.
        if self._dropped > 64 and self._dropped * 2 > len(self._frames):
            self._frames = list(self._frames[self._dropped :])
            self._dropped = 0

    def skip(self, floor: Place) -> None:
        """Drop everything: frames up to this place never came, so streams read them elsewhere."""
        left = self.floor_left
        self.clear(floor)
        self.floor_left = left
        self.first = self.end = self.end + 1

    def clear(self, floor: Place) -> None:
        """Drop everything: the storage is another one."""
        self.first = self.end
        self._frames = ()
        self._dropped = 0
        self.floor = floor
        self.floor_left = None
