"""Sends to many sockets in one system call: Linux's io_uring.

A thousand calls of ``write()`` enter the kernel a thousand times, from as many turns of a Python
loop. Here three copies fill a table of a thousand sends, and one call does them all before it
returns. None of them waits in a thread of the kernel: a socket without room gives an error at once,
as a non-blocking one does.

The layout is that of ``io_uring_setup(2)``; ``IORING_SETUP_SUBMIT_ALL`` dates from Linux 5.18, so
older kernels are refused.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
from array import array
from contextlib import suppress
from typing import Literal

# The same numbers on all of Linux's architectures but alpha.
_SETUP, _ENTER = 425, 426
_SUBMIT_ALL = 1 << 7
_SINGLE_MMAP = 1 << 0
_GETEVENTS = 1 << 0
_SQES = 0x1000_0000
_SEND = 26
_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000
_WRAP = 0xFFFF_FFFF


# The offset of the bytes in CPython's object, which ends in a zero (Include/cpython/bytesobject.h).
_BYTES = bytes.__basicsize__ - 1


def address_of(data: bytes) -> int:
    """The address of the bytes, valid for as long as the object is referred to."""
    return id(data) + _BYTES


class Uring:
    """One ring. Used by one thread, in the process that made it.

    Arguments:
        entries: sends of one system call, a power of two.

    Raises OSError if the kernel has no io_uring, or does not let this process use it.
    """

    _number = -1

    def __init__(self, entries: int = 1024) -> None:
        if not sys.platform.startswith("linux") or sys.byteorder != "little":
            raise OSError("io_uring needs Linux on a little-endian machine")
        if sys.implementation.name != "cpython":
            raise OSError("the address of bytes is known for CPython only")
        self._pid = os.getpid()
        self._maps: list[mmap.mmap] = []
        self._views: list[memoryview] = []
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.restype = ctypes.c_long
        self._call.argtypes = [ctypes.c_long] * 5 + [ctypes.c_void_p, ctypes.c_size_t]
        given = ctypes.create_string_buffer(struct.pack("2I112x", 0, _SUBMIT_ALL), 120)
        self._number = self._call(_SETUP, entries, ctypes.addressof(given), 0, 0, None, 0)
        if self._number < 0:
            raise _error("io_uring_setup")
        try:
            self._map(given.raw)
            self._test()
        except BaseException:
            self.close()
            raise

    def _map(self, given: bytes) -> None:
        # struct io_uring_params: five numbers and `features`, then the offsets of both rings.
        entries, room, _, _, _, features = struct.unpack_from("6I", given, 0)
        _, tail, _, _, _, _, table = struct.unpack_from("7I", given, 40)
        cq_head, cq_tail, _, _, _, cqes = struct.unpack_from("6I", given, 80)
        if not features & _SINGLE_MMAP:
            raise OSError("this kernel's io_uring is too old")
        sq_head = struct.unpack_from("I", given, 40)[0]
        rings = self._mapped(max(table + 4 * entries, cqes + 16 * room), 0)
        sends = self._mapped(64 * entries, _SQES)
        self._entries, self._room = entries, room
        self._sq_head, self._sq_tail = sq_head // 4, tail // 4
        self._cq_head, self._cq_tail, self._cqes = cq_head // 4, cq_tail // 4, cqes // 4
        self._ring, self._results = self._view(rings, "I"), self._view(rings, "i")
        self._ints, self._longs = self._view(sends, "i"), self._view(sends, "Q")
        # Fields of struct io_uring_sqe that never change: opcode, msg_flags and user_data.
        for at in range(entries):
            self._ints[16 * at] = _SEND
            self._ints[16 * at + 7] = _MSG_DONTWAIT | _MSG_NOSIGNAL
            self._longs[8 * at + 4] = at
            self._ring[table // 4 + at] = at

    def _mapped(self, size: int, offset: int) -> mmap.mmap:
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        made = mmap.mmap(self._number, -(-size // 8) * 8, flags, offset=offset)
        self._maps.append(made)
        return made

    def _view(self, of: mmap.mmap, form: Literal["I", "i", "Q"]) -> memoryview[int]:
        plain = memoryview(of)
        view: memoryview[int] = plain.cast(form)
        self._views += [view, plain]
        return view

    def _test(self) -> None:
        """Send bytes over a socket pair, before a stream depends on it."""
        here, there = socket.socketpair()
        with here, there:
            for each in (here, there):
                each.setblocking(False)
            data = b"one and two"
            numbers = array("i", [here.fileno(), here.fileno(), here.fileno()])
            at = address_of(data)
            sizes = array("i", [3, 4, 4])
            done = self.send(numbers, array("Q", [at, at + 3, at + 7]), sizes)
            if done != sizes or there.recv(64) != data:
                raise OSError("io_uring did not send what it was given")

    @property
    def usable(self) -> bool:
        """False once it has failed, was closed, or in a process that was forked off."""
        return self._number >= 0 and self._pid == os.getpid()

    def send(self, numbers: array[int], addresses: array[int], sizes: array[int]) -> array[int]:
        """Send to each socket the bytes that are at an address.

        The bytes must stay at their addresses until this returns. A socket may be given several
        times: its sends are done one after another.

        Arguments:
            numbers: the sockets' file descriptors, of type ``i``.
            addresses, sizes: of the bytes for each, of types ``Q`` and ``i``.

        Returns for each how many bytes were sent, or a negative error number.
        """
        try:
            return self._send(numbers, addresses, sizes)
        except BaseException:
            # After an interruption the next call would take old results for new ones.
            self.close()
            raise

    def _send(self, numbers: array[int], addresses: array[int], sizes: array[int]) -> array[int]:
        from_numbers, from_addresses = memoryview(numbers), memoryview(addresses)
        from_sizes = memoryview(sizes)
        ring, entries, room = self._ring, self._entries, self._room
        done: array[int] = array("i")
        at, total = 0, len(numbers)
        while at < total:
            tail = ring[self._sq_tail]
            slot = tail & (entries - 1)
            head = ring[self._cq_head]
            found = head & (room - 1)
            # No block reaches beyond the end of either ring.
            count = min(total - at, entries - slot, room - found)
            until = at + count
            end = 16 * (slot + count)
            self._ints[16 * slot + 1 : end : 16] = from_numbers[at:until]
            self._ints[16 * slot + 6 : end : 16] = from_sizes[at:until]
            self._longs[8 * slot + 2 : 8 * (slot + count) : 8] = from_addresses[at:until]
            ring[self._sq_tail] = (tail + count) & _WRAP
            taken = self._enter(count, head)
            first = self._cqes + 4 * found
            results = self._results[first + 2 : first + 4 * taken : 4].tobytes()
            if taken and results != from_sizes[at : at + taken].tobytes():
                results = self._in_order(first, slot, taken)
            ring[self._cq_head] = (head + taken) & _WRAP
            done.frombytes(results)
            if taken < count:
                # The kernel has no memory, for example. The rest gets EAGAIN, as if it had no room.
                ring[self._sq_tail] = ring[self._sq_head]
                self.close()
                done.extend([-11] * (total - at - taken))
                break
            at = until
        return done

    def _enter(self, count: int, head: int) -> int:
        """Let the kernel do the sends. Returns how many it took; those are done."""
        taken: int = self._call(_ENTER, self._number, count, 0, 0, None, 0)
        taken = max(taken, 0)
        while (have := (self._ring[self._cq_tail] - head) & _WRAP) < taken:
            # Never seen, as no send waits. But the addresses must stay valid until all are done.
            self._call(_ENTER, self._number, 0, taken - have, _GETEVENTS, None, 0)
        return taken

    def _in_order(self, first: int, slot: int, taken: int) -> bytes:
        # The kernel may complete sends in another order. If every result is as expected the order
        # does not matter; otherwise each is put where its send was.
        results = array("i", bytes(4 * taken))
        for at in range(first, first + 4 * taken, 4):
            results[self._results[at] - slot] = self._results[at + 2]
        return results.tobytes()

    def close(self) -> None:
        """Free it. Idempotent."""
        number, self._number = self._number, -1
        if number < 0:
            return
        for view in self._views:
            view.release()
        for each in self._maps:
            with suppress(BufferError):
                each.close()
        self._views.clear()
        self._maps.clear()
        os.close(number)

    def __del__(self) -> None:
        self.close()


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
