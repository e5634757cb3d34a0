"""What goes in one tick of the loop to connections that hold nothing back."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Sequence
from typing import Protocol

from headwater.delivery.sender import Shared
from headwater.delivery.uring import Uring, address_of

__all__ = ["Batch", "Socket"]

logger = logging.getLogger("headwater.delivery")

# From how many sends on one system call for all of them is the cheaper way.
_MANY = 16
# Sends that wait for each other at most.
_MOST = 4096


class Socket(Protocol):
    """A connection whose socket may be written to.

    Attributes:
        number: the socket's file descriptor.
    """

    number: int

    def rest(self, chunk: bytes, sent: int) -> None:
        """Of these bytes only so many were sent; a negative number is an error's, and none were."""
        ...


class Batch:
    """Writes that are collected, and done with few system calls where the kernel can do that.

    Nothing else may be written to a connection that has something here: ``submit`` comes first.

    Arguments:
        uring: use io_uring where there is one. Else each connection gets a ``write()``.

    Attributes:
        round: how often what was collected was written.
    """

    def __init__(self, *, uring: bool = True) -> None:
        self.round = 0
        self._wanted = uring
        self._uring: Uring | None = None
        self._count = 0
        # What is for one socket alone, and what is for several.
        self._ones: list[Socket] = []
        self._chunks: list[bytes] = []
        self._parts: list[tuple[Sequence[Socket], int, array[int] | None, bytes]] = []

    def add(self, sockets: Sequence[Socket], numbers: array[int] | None, data: Shared) -> None:
        """Write the same to each of these sockets.

        Arguments:
            sockets: none that is in here already. They may be added to, but otherwise not be
                changed before ``submit``.
            numbers: their descriptors, of type ``i``, where that is known.
        """
        count = len(sockets)
        if not self._wanted:
            self.round += 1
            _write(sockets, count, data.chunk)
            return
        if count == 1:
            self._ones.append(sockets[0])
            self._chunks.append(data.chunk)
        else:
            self._parts.append((sockets, count, numbers, data.chunk))
        self._count += count
        if self._count >= _MOST:
            self.submit()

    def submit(self) -> None:
        """Write what was collected. It has been taken by the kernel or the transports then."""
        count, self._count = self._count, 0
        if not count:
            return
        self.round += 1
        ones, chunks, parts = self._ones, self._chunks, self._parts
        self._ones, self._chunks, self._parts = [], [], []
        uring = self._ready() if count >= _MANY else None
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
                each.rest(chunk, sent)
        for sockets, count, _, chunk in parts:
            _look(sockets, results[at : at + count], chunk)
            at += count

    def close(self) -> None:
        """Give back what the kernel holds. It is made anew when it is needed."""
        if self._uring is not None:
            self._uring.close()
            self._uring = None

    def _ready(self) -> Uring | None:
        if self._uring is not None and self._uring.usable:
            return self._uring
        if not self._wanted:
            return None
        self.close()
        try:
            self._uring = Uring()
        except OSError as error:
            self._wanted = False
            logger.info("each connection is written to by itself: %s", error)
        return self._uring


def _write(sockets: Sequence[Socket], count: int, chunk: bytes) -> None:
    write = os.write
    results = array("i")
    for each in sockets[:count]:
        try:
            results.append(write(each.number, chunk))
        except OSError:
            # Full, or the peer is gone: the transport finds out which.
            results.append(-1)
    _look(sockets, results, chunk)


def _look(sockets: Sequence[Socket], results: array[int], chunk: bytes) -> None:
    size = len(chunk)
    if results != array("i", (size,)) * len(results):
        # Who has a rest leaves the sockets that may be written to.
        for each, sent in zip(tuple(sockets), results, strict=False):
            if sent != size:
                each.rest(chunk, sent)
