"""Linux's inotify: the kernel's word that a file was written to, without asking again and again.

Python has no call for it, so it is libc's, through ``ctypes``.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["Inotify"]

# <sys/inotify.h>
_MODIFY = 0x002
_ATTRIB = 0x004  # a link less, too: the file was removed while somebody has it open
_DELETE_SELF = 0x400
_MOVE_SELF = 0x800
_EVENT = struct.Struct("iIII")


class Inotify:
    """Tells of writes to some files, which need not be there yet.

    Raises OSError where there is no inotify, or no more of it for this user.

    Arguments:
        paths: of the files. What is at a path is watched from the next ``renew`` on.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        if sys.platform != "linux":
            raise OSError("inotify is Linux's")
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            begin, self._add = self._libc.inotify_init1, self._libc.inotify_add_watch
            self._remove = self._libc.inotify_rm_watch
        except AttributeError as error:
            raise OSError("this libc has no inotify") from error
        self._watches: dict[bytes, int | None] = dict.fromkeys(map(os.fsencode, paths))
        self._fd: int = begin(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def fileno(self) -> int:
        """What becomes readable when there is something to take."""
        return self._fd

    def take(self) -> bool:
        """Take what was told so far. Returns whether it was anything of a file that is watched.

        A file that was moved or removed is forgotten, until the next ``renew``.
        """
        try:
            told = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        at, news = 0, False
        while at < len(told):
            watch, mask, _, length = _EVENT.unpack_from(told, at)
            at += _EVENT.size + length
            # Below 0: more than the kernel keeps.
            news = news or watch < 0 or watch in self._watches.values()
            if mask != _MODIFY:
                self._end(watch)
        return news

    def renew(self) -> bool:
        """Watch the files that are not watched. Returns whether one is from now on."""
        news = False
        for path, watch in self._watches.items():
            if watch is None:
                found = self._add(self._fd, path, _MODIFY | _ATTRIB | _DELETE_SELF | _MOVE_SELF)
                if found >= 0:
                    self._watches[path] = found
                    news = True
        return news

    def close(self) -> None:
        """Give back the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def forget(self) -> None:
        """Watch nothing until the next ``renew``: another file may be at a path now."""
        for watch in tuple(self._watches.values()):
            if watch is not None:
                self._end(watch)

    def _end(self, watch: int) -> None:
        # The kernel tells of the end of a watch too, also of one that was ended here.
        for path, known in self._watches.items():
            if known == watch:
                self._watches[path] = None
                self._remove(self._fd, watch)  # fails, rightly, if the kernel has removed it
