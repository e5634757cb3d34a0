"""The streams of a channel that have been sent everything."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from headwater.delivery.batch import Batch
from headwater.delivery.direct import DirectSender
from headwater.delivery.few import NONE, Few, with_one, without
from headwater.delivery.sender import Shared

if TYPE_CHECKING:
    from headwater.delivery.feed_stream import FeedStream

__all__ = ["Current"]

# Up to how many sockets their numbers are not kept beside them.
_FEW = 8


class Current:
    """A set of streams. What is new is written to each of them.

    Those whose connection is ours and holds nothing back are *ready*: their sockets are written to
    together. Whatever else is to be written to one of them makes it leave these first, and what was
    collected for it is written before.

    Arguments:
        batch: collects what is written in one tick.

    Attributes:
        written_at: the loop's time when the ready ones were last written to.
    """

    __slots__ = ("_batch", "_numbers", "_others", "_ready", "_round", "written_at")

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._others: Few[FeedStream] = NONE
        self._ready: list[DirectSender] | tuple[()] = ()
        self._numbers: array[int] | None = None
        self._round = -1
        self.written_at = 0.0

    def __len__(self) -> int:
        return len(self._ready) + len(self._others)

    def __iter__(self) -> Iterator[FeedStream]:
        yield from self._others
        for sender in self._ready:
            yield _stream_of(sender)

    def add(self, stream: FeedStream) -> None:
        self._others = with_one(self._others, stream)

    def discard(self, stream: FeedStream) -> None:
        self._others = without(self._others, stream)
        sender = stream.sender
        if isinstance(sender, DirectSender) and sender.ready is self:
            self._remove(sender)

    def clear(self) -> None:
        for sender in tuple(self._ready):
            self._remove(sender)
        self._others = NONE

    def put(self, data: Shared, now: float) -> Sequence[FeedStream]:
        """Write to all streams. Those that have no room are left out, returned and let go of."""
        if self._round == self._batch.round:
            # What was collected for the same ones before goes first; some may have no room then.
            self._batch.submit()
        full: Sequence[FeedStream] = ()
        if self._others:
            full = self._put_others(data, now)
        if self._ready:
            self.written_at = now
            self._round = self._batch.round
            self._batch.add(self._ready, self._numbers, data)
        return full

    def _put_others(self, data: Shared, now: float) -> Sequence[FeedStream]:
        """Write to those that are not ready, or find them ready from now on."""
        full: list[FeedStream] = []
        free: list[tuple[FeedStream, DirectSender]] = []
        for stream in self._others:
            sender = stream.sender
            if sender.full:
                full.append(stream)
            elif isinstance(sender, DirectSender) and sender.free:
                free.append((stream, sender))
            else:
                sender.put(data)
                stream.written_at = now
        for stream in full:
            self._others = without(self._others, stream)
        for stream, sender in free:
            self._others = without(self._others, stream)
            sender.ready, sender.at = self, len(self._ready)
            if isinstance(self._ready, tuple):
                self._ready = []
            self._ready.append(sender)
            if self._numbers is not None:
                self._numbers.append(sender.number)
        if self._numbers is None and len(self._ready) > _FEW:
            self._numbers = array("i", [sender.number for sender in self._ready])
        return full

    def leave(self, sender: DirectSender) -> None:
        """A ready one is about to be written something of its own."""
        self._batch.submit()
        if sender.ready is self:
            self._remove(sender)
            self.add(_stream_of(sender))

    def _remove(self, sender: DirectSender) -> None:
        # The last one takes its place.
        self._batch.submit()
        if sender.ready is not self:
            return
        stream, at = sender.stream, sender.at
        sender.ready = None
        stream.written_at = max(stream.written_at, self.written_at)
        assert isinstance(self._ready, list)
        last = self._ready.pop()
        if last is not sender:
            self._ready[at] = last
            last.at = at
        if self._numbers is not None:
            number = self._numbers.pop()
            if last is not sender:
                self._numbers[at] = number


def _stream_of(sender: DirectSender) -> FeedStream:
    # It came in here with this stream.
    return cast("FeedStream", sender.stream)
