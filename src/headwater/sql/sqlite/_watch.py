"""A reader's part in the watch of its SQLite file: it joins, and leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import sqlalchemy as sa

from headwater.sql._commits import commits_of
from headwater.sql._reader import CommitWatch
from headwater.sql.sqlite._connections import file_of
from headwater.sql.sqlite._file_reader import FileReader
from headwater.sql.sqlite._file_watch import FileWatch


class Watched(FileReader, CommitWatch):
    """One reader of a table or an event log, which the watch of its file wakes.

    Arguments:
        engines: those of this process that write. The first one reads, and names the file.
        table: commits of this process wake it when their statements name this table.
        wake, name: as FileReader.
    """

    def __init__(
        self, engines: Sequence[sa.Engine], table: str, wake: Callable[[], None], name: str
    ) -> None:
        self.name = name
        self.wake = wake
        self.loop = asyncio.get_running_loop()
        self._path = file_of(engines[0])
        self.commits = [commits_of(engine) for engine in engines]
        # In memory nothing else reports what a cascade or a trigger wrote: any commit counts.
        named = None if self._path is None else table
        self._ends = [commits.add(named, wake, self.loop) for commits in self.commits]
        self._stopped = False
        if self._path is not None:
            _join(self._path, self)

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        for end in self._ends:
            end()
        ended = None if self._path is None else _leave(self._path, self)
        if ended is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await ended


_lock = threading.Lock()
_watches: dict[str, FileWatch] = {}


def _join(path: str, reader: Watched) -> None:
    with _lock:
        watch = _watches.get(path)
        if watch is None:
            watch = _watches[path] = FileWatch(path, _lock, partial(_forget, path))
        watch.readers.append(reader)


def _leave(path: str, reader: Watched) -> asyncio.Future[None] | None:
    """Wake a reader no more. Returns what is done when the watch has ended; None if it goes on."""
    with _lock:
        watch = _watches.get(path)
        if watch is None or reader not in watch.readers:
            return None
        watch.readers.remove(reader)
        if watch.readers:
            return None
        del _watches[path]
        return watch.stop()


def _forget(path: str, watch: FileWatch) -> None:
    if _watches.get(path) is watch:
        del _watches[path]
