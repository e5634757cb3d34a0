"""The writes of one tick of the loop, done with few system calls where the kernel can do that."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, cast

from headwater.delivery._direct_sender import CHUNK, DirectSender
from headwater.delivery._small_set import EMPTY, SmallSet, with_one, without
from headwater.delivery._stream import Stream
from headwater.delivery._uring import Uring, address_of

logger = logging.getLogger("headwater.delivery")

# From this number of sends on one system call for all of them is cheaper than one for each.
_MANY = 16
# Sends that are collected at most before they are done.
_MAX_COLLECTED = 4096
# Up to this number of sockets the array of their descriptors is made for each write.
_FEW_SOCKETS = 8

S = TypeVar("S", bound=Stream)


class WriteBatch:
    """Collects writes to sockets until ``submit``.

    Nothing else may be written to a connection that has something collected: submit first.

    Arguments:
        uring: use io_uring if the kernel offers it. Otherwise ``add`` writes at once, by one
            ``write()`` for each socket.

    Attributes:
        round: grows whenever what was collected is written.
    """

    def __init__(self, *, uring: bool = True) -> None:
        self.round = 0
        self._wanted = uring
        self._uring: Uring | None = None
        self._count = 0
        # Chunks for one socket each, and chunks for several.
        self._ones: list[DirectSender] = []
        self._chunks: list[bytes] = []
        self._parts: list[tuple[Sequence[DirectSender], int, array[int] | None, bytes]] = []
        # Channels in a row often send the same bytes.
        self._data = self._chunk = b""

    def add(self, sockets: Sequence[DirectSender], numbers: array[int] | None, data: bytes) -> None:
        """Write the same bytes of a body to each of these sockets.

        Arguments:
            sockets: none that has something collected. Until ``submit`` the sequence may grow, but
                not change otherwise.
            numbers: the sockets' descriptors, of type ``i``, if they are at hand.
        """
        if data is not self._data:
            self._data, self._chunk = data, CHUNK % (len(data), data)
        count, chunk = len(sockets), self._chunk
        if not self._wanted:
            self.round += 1
            _write(sockets, count, chunk)
            return
        if count == 1:
            self._ones.append(sockets[0])
            self._chunks.append(chunk)
        else:
            self._parts.append((sockets, count, numbers, chunk))
        self._count += count
        if self._count >= _MAX_COLLECTED:
            self.submit()

    def submit(self) -> None:
        """Hand what was collected to the kernel; what it does not accept, to the transports."""
        self._data = self._chunk = b""
        count, self._count = self._count, 0
        if not count:
            return
        self.round += 1
        ones, chunks, parts = self._ones, self._chunks, self._parts
        self._ones, self._chunks, self._parts = [], [], []
        uring = self._usable_uring() if count >= _MANY else None
        if uring is None:
            for each, chunk in zip(ones, chunks, strict=True):
                _write((each,), 1, chunk)
            for sockets, count, _, chunk in parts:
                _write(sockets, count, chunk)
            return
        numbers = array("i", [each.number for each in ones])
        addresses = array("Q", [address_of(chunk) for chunk in chunks])
        sizes = array("i", [len(chunk) for chunk in chunks])
        for sockets, count, known, chunk in parts:
            numbers.extend(known[:count] if known else [each.number for each in sockets[:count]])
            addresses.extend(array("Q", (address_of(chunk),)) * count)
            sizes.extend(array("i", (len(chunk),)) * count)
        results = uring.send(numbers, addresses, sizes)
        if results == sizes:
            return
        at = len(ones)
        for each, chunk, sent in zip(ones, chunks, results[:at], strict=True):
            if sent != len(chunk):
                each.write_rest(chunk, sent)
        for sockets, count, _, chunk in parts:
            _write_rests(sockets, results[at : at + count], chunk)
            at += count

    def close(self) -> None:
        """Free what the kernel holds. It is made anew when it is needed."""
        if self._uring is not None:
            self._uring.close()
            self._uring = None

    def _usable_uring(self) -> Uring | None:
        if self._uring is not None and self._uring.usable:
            return self._uring
        if not self._wanted:
            return None
        self.close()
        try:
            self._uring = Uring()
        except OSError as error:
            self._wanted = False
            logger.info("io_uring is not used, each connection is written to alone: %s", error)
        return self._uring


def _write(sockets: Sequence[DirectSender], count: int, chunk: bytes) -> None:
    write = os.write
    results = array("i")
    for each in sockets[:count]:
        try:
            results.append(write(each.number, chunk))
        except OSError:
            # The socket is full or the peer is gone; the transport finds out which.
            results.append(-1)
    _write_rests(sockets, results, chunk)


def _write_rests(sockets: Sequence[DirectSender], results: array[int], chunk: bytes) -> None:
    size = len(chunk)
    if results != array("i", (size,)) * len(results):
        # A copy, because a sender that has something left to write leaves its group.
        for each, sent in zip(tuple(sockets), results, strict=False):
            if sent != size:
                each.write_rest(chunk, sent)


class Recipients(Generic[S]):
    """Streams that were sent everything so far: each new frame is written to all of them.

    Those whose socket can be written to directly form the *group*, whose sockets are written to
    together. Before anything else is written to one of them, what was collected for it is written
    and it leaves the group.

    Attributes:
        written_at: the loop's time of the last write to the group.
    """

    __slots__ = ("_batch", "_group", "_numbers", "_others", "_round", "written_at")

    def __init__(self, batch: WriteBatch) -> None:
        self._batch = batch
        self._others: SmallSet[S] = EMPTY
        self._group: list[DirectSender] | tuple[()] = ()
        self._numbers: array[int] | None = None
        self._round = -1
        self.written_at = 0.0

    def __len__(self) -> int:
        return len(self._group) + len(self._others)

    def __iter__(self) -> Iterator[S]:
        yield from self._others
        for sender in self._group:
            yield cast("S", sender.stream)

    def add(self, stream: S) -> None:
        self._others = with_one(self._others, stream)

    def discard(self, stream: S) -> None:
        self._others = without(self._others, stream)
        sender = stream.sender
        if isinstance(sender, DirectSender) and sender.group is self:
            self._remove(sender)

    def clear(self) -> None:
        for sender in tuple(self._group):
            self._remove(sender)
        self._others = EMPTY

    def write(self, data: bytes, now: float) -> Sequence[S]:
        """Write to all streams. Returns those without room, which are not in the set any more."""
        if self._round == self._batch.round:
            # Something is collected for the same sockets; after that some may have no room.
            self._batch.submit()
        full: Sequence[S] = ()
        if self._others:
            full = self._write_others(data, now)
        if self._group:
            self.written_at = now
            self._round = self._batch.round
            self._batch.add(self._group, self._numbers, data)
        return full

    def _write_others(self, data: bytes, now: float) -> Sequence[S]:
        """Write to the streams outside of the group, or move them into it."""
        full: list[S] = []
        free: list[tuple[S, DirectSender]] = []
        for stream in self._others:
            sender = stream.sender
            if sender.full:
                full.append(stream)
            elif isinstance(sender, DirectSender) and sender.free:
                free.append((stream, sender))
            else:
                sender.write(data)
                stream.written_at = now
        for stream in full:
            self._others = without(self._others, stream)
        for stream, sender in free:
            self._others = without(self._others, stream)
            sender.group, sender.at = self, len(self._group)
            if isinstance(self._group, tuple):
                self._group = []
            self._group.append(sender)
            if self._numbers is not None:
                self._numbers.append(sender.number)
        if self._numbers is None and len(self._group) > _FEW_SOCKETS:
            self._numbers = array("i", [sender.number for sender in self._group])
        return full

    def leave(self, sender: DirectSender) -> None:
        """Take a sender out of the group, because something of its own is written to it next."""
        self._batch.submit()
        if sender.group is self:
            self._remove(sender)
            self.add(cast("S", sender.stream))

    def _remove(self, sender: DirectSender) -> None:
        self._batch.submit()
        if sender.group is not self:
            return
        stream, at = sender.stream, sender.at
        sender.group = None
        stream.written_at = max(stream.written_at, self.written_at)
        assert isinstance(self._group, list)
        # The last one takes its place.
        last = self._group.pop()
        if last is not sender:
            self._group[at] = last
            last.at = at
        if self._numbers is not None:
            number = self._numbers.pop()
            if last is not sender:
                self._numbers[at] = number
