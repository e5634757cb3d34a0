"""Reads a tracked table on SQLite: pages, the tail's batches and the members of a window."""

from __future__ import annotations

import asyncio
import json
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Hashable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import (
    DeclarationError,
    PositionError,
    SourceUnavailableError,
    UsageError,
)
from headwater.feeds.source import EVERYTHING, Change, Filter, Page, Place, Window
from headwater.sql.reader import Batch, Follow, Following, Head, Reader
from headwater.sql.shape import Shape
from headwater.sql.sqlite import trim
from headwater.sql.sqlite.connections import guard
from headwater.sql.sqlite.direct import Direct
from headwater.sql.sqlite.faults import unavailable
from headwater.sql.sqlite.moments import moment_of
from headwater.sql.sqlite.place import RowPlace
from headwater.sql.sqlite.schema import label, triggers
from headwater.sql.sqlite.statements import GONE, LEFT, PREFIX, Asked, Statements
from headwater.sql.sqlite.watch import file_of, follow

__all__ = ["SQLiteReader"]

Row = Sequence[Any]


class SQLiteReader(Reader):
    """One tracked table of one SQLite database."""

    def __init__(
        self,
        engine: AsyncEngine,
        shape: Shape,
        listen: Sequence[sa.Engine] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.shape = shape
        self._listen = (engine.sync_engine, *listen)
        self._engine = engine
        guard(engine.sync_engine)
        self._now = now
        self._name = f"table {shape.name}"
        self._statements = Statements(shape)
        self._triggers = len(triggers(shape.tracking))
        self._attributes = tuple(shape.columns)
        # Nothing is removed, and no window looks at a moment.
        self._plain = not shape.tracking.keyed
        self._readers = shape.readers(engine.dialect)
        # While it is followed: one for the tail, and one for pages, for which it does not wait.
        self._tail: Direct | None = None
        self._pages: Direct | None = None

    def parse(self, text: str) -> RowPlace:
        return RowPlace.parse(text)

    def beginning(self) -> RowPlace:
        return RowPlace(0)

    async def head(self) -> Head:
        rows = await self._read((self._statements.head(), {}))
        self._registry(rows)
        if rows[0][4] < self._triggers:
            raise DeclarationError(
                f"{self._name}: some of its triggers are gone, as after a migration that rebuilt "
                "the table; call add_tracking() again"
            )
        return Head(rows[0][0], RowPlace(rows[0][1]), rows[0][2])

    async def locate(self, epoch: str, place: Place) -> None:
        rows = await self._read((self._statements.head(), {}))
        last, floor = self._registry(rows)
        if epoch != rows[0][0]:
            raise PositionError(str(place), "unknown", "it is of another database")
        self._check(_own(place), last, floor)

    async def batch(self, epoch: str, after: Place, limit: int, *, trimmed: int = 0) -> Batch:
        place = _own(after)
        now = self._now()
        asked = self._statements.after(EVERYTHING, None, now, limit + 1, place)
        rows = await self._read(asked, self._tail)
        last, floor = self._registry(rows)
        if rows[0][0] != epoch:
            raise PositionError(str(place), "unknown", "the database is another one")
        self._check(place, last, floor if floor > trimmed else 0)
        found = _picked(rows)
        has_more = len(found) > limit
        if has_more:
            found = found[:limit]
        changes = (
            self._rows(found)
            if self._plain
            else [self._change(row, RowPlace(row[4])) for row in found]
        )
        end = RowPlace(found[-1][4] if has_more else last)
        retiring = None if rows[0][10] is None else RowPlace(rows[0][10])
        return Batch(changes, end, has_more, retiring)

    async def page(
        self,
        wanted: Filter,
        window: Window | None,
        limit: int,
        *,
        after: Place | None = None,
        before: Place | None = None,
    ) -> Page:
        if limit < 1:
            raise UsageError(f"limit={limit} must be at least 1")
        now = self._now()
        if after is not None:
            return await self._after(wanted, window, now, limit, _own(after))
        place = None if before is None else _own(before)
        below = None if place is None else place.below
        asked = self._statements.newest(wanted, window, now, limit + 1, below)
        rows = await self._read(asked, self._pages)
        last, _ = self._registry(rows)
        told = self._told(rows, window)
        found = _picked(rows)
        has_more = len(found) > limit
        changes = [
            self._change(row, RowPlace(row[4], told)) for row in found[max(0, len(found) - limit) :]
        ]
        end = RowPlace(last if below is None else max(0, min(below - 1, last)), told)
        start = RowPlace(found[-len(changes)][4]) if changes else RowPlace(end.number, past=True)
        return Page(changes, start, end, has_more, rows[0][0], None if window is None else now)

    async def _after(
        self, wanted: Filter, window: Window | None, now: datetime, limit: int, place: RowPlace
    ) -> Page:
        asked = self._statements.after(wanted, window, now, limit + 1, place)
        rows = await self._read(asked, self._pages)
        last, floor = self._registry(rows)
        self._check(place, last, floor)
        # What left the window is told first; from then on every place says so.
        told = _later(place.told, self._told(rows, window))
        found = _picked(rows)
        has_more = len(found) > limit
        changes: list[Change] = []
        for row in found[:limit]:
            if row[5] == LEFT:
                assert window is not None
                moment = moment_of(row[8])
                assert moment is not None
                at = RowPlace(place.number, moment + window.length, row[4])
                changes.append(self._change(row, at, removed=True))
            else:
                out = window is not None and not _inside(row[8], now, window)
                changes.append(self._change(row, RowPlace(row[4], told), removed=out))
        if has_more:
            last_told = changes[-1].place
            assert isinstance(last_told, RowPlace)
            end = last_told
        else:
            end = RowPlace(last, told)
        first = found[0] if found else None
        if first is None or first[5] == LEFT:
            start = RowPlace(place.number, past=True)
        else:
            start = RowPlace(first[4])
        as_of = None if window is None else now
        return Page(changes, start, end, has_more, rows[0][0], as_of)

    async def revision(self) -> Hashable | None:
        pages = self._pages
        if pages is None or pages.busy:
            return None
        with self._translated():
            return await pages.version()

    async def members(
        self, wanted: Filter, window: Window
    ) -> Sequence[tuple[Mapping[str, Any], datetime]]:
        rows = await self._read(self._statements.members(wanted, window, self._now()))
        found: list[tuple[Mapping[str, Any], datetime]] = []
        for row in rows:
            moment = moment_of(row[-1])
            assert moment is not None
            found.append((dict(zip(self.shape.key, row, strict=False)), moment))
        return found

    async def trim(
        self,
        *,
        max_age: timedelta | None,
        column: str | None,
        max_count: int | None,
        grace: float,
    ) -> int:
        cutoff = None if max_age is None else self._now() - max_age
        wanted = (self.shape, cutoff, column, max_count)
        async with self._connected() as connection:
            last, told = await connection.run_sync(lambda sync: trim.announce(sync, *wanted))
            await connection.commit()
        if told:
            await asyncio.sleep(grace)
        removed = 0
        while True:
            async with self._connected() as connection:
                step = await connection.run_sync(lambda sync: trim.step(sync, *wanted, last))
                await connection.commit()
            removed += step.removed
            if step.done:
                return removed

    def follow(
        self,
        wake: Callable[[], None],
        known: Callable[[], Head | None],
        reach: Callable[[Place], None] | None = None,
    ) -> Follow:
        following = follow(self._listen, self.shape.name, wake, known, reach)
        if file_of(self._engine.sync_engine) is None:
            return following
        tail, pages = self._tail, self._pages = Direct(self._engine), Direct(self._engine)

        async def close() -> None:
            await tail.close()
            await pages.close()

        def done() -> Awaitable[None]:
            if self._tail is tail:
                self._tail = self._pages = None
            return close()

        return Following(following, done)

    async def _read(self, asked: Asked, direct: Direct | None = None) -> Sequence[Row]:
        if direct is not None and not direct.busy:
            with self._translated():
                return await direct.read(*asked)
        async with self._connected() as connection:
            rows: Sequence[Row] = (await connection.execute(*asked)).all()
            return rows

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        with self._translated():
            async with self._engine.connect() as connection:
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = unavailable(error)
            if said is None:
                raise
            raise SourceUnavailableError(self._name, said) from error

    def _registry(self, rows: Sequence[Row]) -> tuple[int, int]:
        if not rows:
            raise SourceUnavailableError(
                self._name, "the database does not track it; is the database migrated?"
            )
        if not self.shape.tracking.served_by(rows[0][3]):
            raise DeclarationError(
                f"{self._name}: its triggers were made for {rows[0][3]}, the model declares "
                f"{self.shape.tracking.declared()}; a migration with add_tracking() is missing"
            )
        return rows[0][1], rows[0][2]

    def _check(self, place: RowPlace, last: int, floor: int) -> None:
        if place.number > last:
            raise PositionError(str(place), "unknown", "it lies in the future")
        if place.number < floor:
            raise PositionError(str(place), "expired")

    def _told(self, rows: Sequence[Row], window: Window | None) -> datetime | None:
        """When the last row of the selection left: the same while nothing changes."""
        moment = moment_of(rows[0][9])
        return None if window is None or moment is None else moment + window.length

    def _rows(self, rows: Sequence[Row]) -> list[Change]:
        """As ``_change``, for rows of an append-only table."""
        names, made = self._attributes, list[Change]()
        for row in rows:
            values = dict(zip(names, row[PREFIX:], strict=True))
            made.append(Change(RowPlace(row[4]), values, values))
        return made

    def _change(self, row: Row, place: RowPlace, *, removed: bool = False) -> Change:
        if row[5] == GONE:
            return self._removal(row, place)
        values = dict(zip(self._attributes, row[PREFIX:], strict=True))
        key = None
        if self.shape.tracking.keyed:
            key = {name: values[name] for name in self.shape.key}
        moment = moment_of(row[8])
        item = None if removed else values
        return Change(place, values, item, removed=removed, key=key, moment=moment)

    def _removal(self, row: Row, place: RowPlace) -> Change:
        key_json, old = json.loads(row[6]), json.loads(row[7])
        columns = self.shape.columns
        key = {
            name: self._readers[name](key_json[label(columns[name].name)])
            for name in self.shape.key
        }
        values = dict(key)
        for name in self.shape.kept:
            values[name] = self._readers[name](old.get(label(columns[name].name)))
        moment = None
        if self.shape.window is not None:
            moment = moment_of(old.get(label(columns[self.shape.window].name)))
        return Change(place, values, removed=True, key=key, moment=moment)


def _picked(rows: Sequence[Row]) -> Sequence[Row]:
    return rows if rows[0][4] is not None else ()


def _inside(moment: str | None, now: datetime, window: Window) -> bool:
    found = moment_of(moment)
    return found is not None and found + window.length > now


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return max(one, other)


def _own(place: Place) -> RowPlace:
    if not isinstance(place, RowPlace):
        raise UsageError(f"{place!r} is not a place in a table on SQLite")
    return place
