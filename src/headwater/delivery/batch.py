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
        self._numbers = array("i")
        self._addresses = array("Q")
        self._sizes = array("i")
        self._parts: list[tuple[Sequence[Socket], int, bytes]] = []

    def add(self, sockets: Sequence[Socket], numbers: array[int] | None, data: Shared) -> None:
        """Write the same to each of these sockets.

        Arguments:
            sockets: may be added to, but otherwise not be changed before ``submit``.
            numbers: their descriptors, of type ``i``, where that is known.
        """
        chunk, count = data.chunk, len(sockets)
        if not self._wanted:
            self.round += 1
            _write(sockets, count, chunk)
            return
        self._parts.append((sockets, count, chunk))
        if count == 1:
            self._numbers.append(sockets[0].number)
            self._addresses.append(address_of(chunk))
            self._sizes.append(len(chunk))
        else:
            self._numbers.extend(numbers or [each.number for each in sockets])
            self._addresses.extend(array("Q", (address_of(chunk),)) * count)
            self._sizes.extend(array("i", (len(chunk),)) * count)
        if len(self._numbers) >= _MOST:
            self.submit()

    def submit(self) -> None:
        """Write what was collected. It has been taken by the kernel or the transports then."""
        parts = self._parts
        if not parts:
            return
        self.round += 1
        numbers, addresses, sizes = self._numbers, self._addresses, self._sizes
        self._parts, self._numbers = [], array("i")
        self._addresses, self._sizes = array("Q"), array("i")
        uring = self._ready() if len(numbers) >= _MANY else None
        if uring is None:
            for sockets, count, chunk in parts:
                _write(sockets, count, chunk)
            return
        results = uring.send(numbers, addresses, sizes)
        if results == sizes:
            return
        at = 0
        for sockets, count, chunk in parts:
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
