"""Reads a tracked table on SQLite: pages, the tail's batches and the members of a window."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.errors import PositionError
from headwater.feeds._source import EVERYTHING, Change, Filter, Page, Place, Window
from headwater.sql._filters import CACHED, Asked, Query
from headwater.sql._judging import NO_QUESTIONS, Questions
from headwater.sql._model import TableModel
from headwater.sql._place_text import NEWEST
from headwater.sql._reader import (
    ChangeBatch,
    CommitWatch,
    Head,
    Member,
    Row,
    TableReader,
    Tail,
    WatchGroup,
)
from headwater.sql._statements import GONE, LEFT
from headwater.sql._trim import Trim, table_trim
from headwater.sql._unreadable import Unreadable, cannot_be_read, read_rows
from headwater.sql._wanted import Lack, Selection, Wanted
from headwater.sql.sqlite._connections import ReadConnection, file_of, guard
from headwater.sql.sqlite._file_reader import State
from headwater.sql.sqlite._place import RowPlace, moment_of
from headwater.sql.sqlite._schema import check_schema
from headwater.sql.sqlite._statements import HEAD_VERSION, PREFIX, VERSION, SQLiteStatements
from headwater.sql.sqlite._triggers import label, stored
from headwater.sql.sqlite._watch import Watched

# A read is repeated if the schema changed before it. After so many times an old tracking will do.
_SCHEMA_CHANGES = 5


class SQLiteReader(TableReader):
    """One tracked table of one SQLite database."""

    def __init__(
        self, engine: AsyncEngine, model: TableModel, listen: Sequence[AsyncEngine | sa.Engine] = ()
    ) -> None:
        super().__init__(engine, model, listen)
        check_schema(model.tracking)
        guard(engine.sync_engine)
        self._statements = SQLiteStatements(model, self.judged)
        # The schema's version when the table was found to be right; None: compare it first.
        self._schema: int | None = None
        self._attributes = tuple(model.columns)
        self._converters = model.converters(engine.dialect)
        # The tail's own statements.
        self._batches: dict[Selection, Query] = {}
        # While the tail is attached: one for it, and one for pages, so that neither waits.
        self._changes: ReadConnection | None = None
        self._pages: ReadConnection | None = None

    def parse(self, text: str) -> RowPlace:
        return RowPlace.parse(text)

    def beginning(self) -> RowPlace:
        return RowPlace(0)

    def nothing(self) -> RowPlace:
        return RowPlace(0, began=NEWEST)

    async def head(self) -> Head:
        # The file may be another one, of the same version of the schema.
        self._schema = None
        rows = await self._read(lambda statements: (statements.head(), {}), at=HEAD_VERSION)
        self._registered(rows)
        return Head(rows[0][0], RowPlace(rows[0][1]), rows[0][2])

    async def locate(self, epoch: str, place: Place) -> None:
        rows = await self._read(lambda statements: (statements.head(), {}), at=HEAD_VERSION)
        last, floor = self._registered(rows)
        if epoch != rows[0][0]:
            raise PositionError(str(place), "unknown", "it is of another database")
        self._check(self.own_place(place, RowPlace), last, floor)

    async def batch(
        self, head: Head, limit: int, questions: Questions = NO_QUESTIONS, /
    ) -> ChangeBatch:
        place = self.own_place(head.place, RowPlace)
        selected = Selection(EVERYTHING, None, self.model.window, questions.form)

        def ask(statements: SQLiteStatements) -> Asked:
            query = self._batches.get(selected)
            if statements is not self._statements:
                query = statements.build_after(selected, Lack())
            elif query is None:
                if len(self._batches) >= CACHED:
                    self._batches.clear()
                query = self._batches[selected] = statements.build_after(selected, Lack())
            numbers = {"number": place.number, "gone_number": place.number}
            return query, {**numbers, "count": limit + 1, **questions.parameters}

        rows = await self._read(ask, self._changes)
        last, floor = self._registered(rows)
        if rows[0][0] != head.epoch:
            raise PositionError(str(place), "unknown", "the database is another one")
        self._check(place, last, floor if floor > head.trimmed else 0)
        found = _picked(rows)
        has_more = len(found) > limit
        if has_more:
            found = found[:limit]
        if self.model.tracking.keyed or questions.form:
            changes = [self._change(row, RowPlace(row[4]), questions=questions) for row in found]
        else:
            changes = self._inserts(found)
        end = RowPlace(found[-1][4] if has_more else last)
        retiring = None if rows[0][10] is None else RowPlace(rows[0][10])
        return ChangeBatch(changes, end, has_more, retiring)

    async def page_before(self, wanted: Wanted, limit: int, before: Place | None, /) -> Page:
        place = None if before is None else self.own_place(before, RowPlace)
        rows = await self._read(
            lambda statements: statements.newest(wanted, limit + 1, place), self._pages
        )
        last, _ = self._registered(rows)
        until = wanted.leaves(moment_of(rows[0][9]))
        found = _picked(rows)
        has_more = len(found) > limit
        shown = found[max(0, len(found) - limit) :]
        if self.model.tracking.keyed:
            changes = [self._change(row, RowPlace(row[4], until)) for row in shown]
        else:
            changes = self._inserts(shown)
        end = RowPlace(last if place is None else max(0, min(place.below - 1, last)), until)
        start = RowPlace(shown[0][4]) if shown else RowPlace(end.number, past=True)
        return Page(changes, start, end, has_more, rows[0][0], wanted.as_of)

    async def page_after(self, wanted: Wanted, limit: int, after: Place, /) -> Page:
        place = self.own_place(after, RowPlace)
        rows = await self._read(
            lambda statements: statements.after(wanted, limit + 1, place), self._pages
        )
        last, floor = self._registered(rows)
        self._check(place, last, floor)
        began = None if place.began is None else min(place.began, last)
        # Rows that left the window come first; every place after them says that they were sent.
        left = wanted.leaves(moment_of(rows[0][9]))
        until = max(filter(None, (place.removed_until, left)), default=None)
        as_of = None if until is None else last
        found = _picked(rows)
        has_more = len(found) > limit
        changes: list[Change] = []
        for row in found[:limit]:
            if row[5] == LEFT:
                moment = wanted.leaves(moment_of(row[8]))
                at = RowPlace(place.number, moment, row[4], as_of=as_of, began=began)
                changes.append(self._change(row, at, removed=True))
            else:
                out = not wanted.has(moment_of(row[8]))
                at = RowPlace(row[4], until, as_of=as_of, began=began)
                changes.append(self._change(row, at, removed=out))
        end = changes[-1].place if has_more else None
        if not found or found[0][5] == LEFT:
            start = RowPlace(place.number, past=True)
        else:
            start = RowPlace(found[0][4])
        end = end or RowPlace(last, until)
        return Page(changes, start, end, has_more, rows[0][0], wanted.as_of)

    async def revision(self) -> Hashable | None:
        pages = self._pages
        if pages is None or pages.busy:
            return None
        with self.translated():
            return await pages.version()

    async def members(self, wanted: Filter, window: Window, /) -> Sequence[Member]:
        selected = self._wanted(wanted, window)
        rows = await self._read(
            lambda statements: statements.members(selected, window.column), at=None
        )
        found: list[Member] = []
        for row in rows:
            moment = moment_of(row[-1])
            if moment is not None:
                found.append((self.key_of(row), moment))
        return found

    async def exceeds(self, wanted: Filter, window: Window | None, count: int, /) -> bool:
        selected = self._wanted(wanted, window)
        rows = await self._read(
            lambda statements: statements.beyond_count(selected, count), at=None
        )
        return bool(rows)

    def trimming(self, cutoff: datetime | None, column: str | None, max_count: int | None) -> Trim:
        statements = SQLiteStatements(self.model, self.judged)
        return table_trim(statements, cutoff, column, max_count)

    def watch_commits(self, tail: Tail, /) -> CommitWatch:
        watch = _TailWatch(self._writers, self.model, tail)
        if file_of(self.engine.sync_engine) is None:
            return watch
        changes, pages = ReadConnection(self.engine), ReadConnection(self.engine)
        self._changes, self._pages = changes, pages

        async def close() -> None:
            if self._changes is changes:
                self._changes = self._pages = None
            await changes.close()
            await pages.close()

        return WatchGroup(close, watch.stop)

    async def _read(
        self,
        ask: Callable[[SQLiteStatements], Asked],
        connection: ReadConnection | None = None,
        at: int | None = VERSION,
    ) -> Sequence[Row]:
        """The rows of a statement, with the version of the schema ``at`` one of their columns."""
        rows: Sequence[Row] = ()
        for last in (*[False] * _SCHEMA_CHANGES, True):
            if self._schema is None:
                await self._compare()
            try:
                if connection is not None and not connection.busy:
                    with self.translated():
                        rows = await connection.read(*ask(self._statements))
                else:
                    async with self.connected() as pooled:
                        rows = (await pooled.execute(*ask(self._statements))).all()
            except Exception as error:
                if cannot_be_read(error):
                    statements = SQLiteStatements(self.model, self.judged, keys_only=True)
                    async with self.connected() as pooled:
                        rows = await read_rows(pooled, self.model, ask(statements))
                    break
                if not isinstance(error, sa.exc.DBAPIError):
                    raise
                # A column may be missing since the schema changed.
                if last:
                    raise
                self._schema = None
                continue
            if at is None or (rows and rows[0][at] == self._schema):
                break
            self._schema = None
        return rows

    async def _compare(self) -> None:
        """Compare the table with its model and with what its tracking should be."""
        async with self.connected() as connection:
            version = await connection.scalar(sa.text("PRAGMA schema_version"))
            if await self.compare(connection):
                self._statements = SQLiteStatements(self.model, self.judged)
                self._batches.clear()
        self._schema = version

    def _registered(self, rows: Sequence[Row]) -> tuple[int, int]:
        """The table's last number and floor, as Headwater's own table has them."""
        self.check_declared(rows[0][3] if rows else None)
        return rows[0][1], rows[0][2]

    def _check(self, place: RowPlace, last: int, floor: int) -> None:
        if place.number > last:
            raise PositionError(str(place), "unknown", "it lies in the future")
        if place.removals_from < floor:
            raise PositionError(str(place), "expired")

    def _inserts(self, rows: Sequence[Row]) -> list[Change]:
        """As ``_change``, faster, for rows of an append-only table."""
        names, made = self._attributes, list[Change]()
        for row in rows:
            values = dict(zip(names, row[PREFIX:], strict=True))
            made.append(Change(RowPlace(row[4]), values, values, named=self.model.key))
        return made

    def _change(
        self,
        row: Row,
        place: RowPlace,
        *,
        removed: bool = False,
        questions: Questions = NO_QUESTIONS,
    ) -> Change:
        moment = row[8]
        if row[5] == GONE:
            columns, key, old = self.model.columns, json.loads(row[6]), json.loads(row[7])
            kept = {name: key[label(columns[name].name)] for name in self.model.key}
            for name in self.model.kept:
                kept.setdefault(name, old.get(label(columns[name].name)))
            values = {name: self._converted(name, stored(each)) for name, each in kept.items()}
            if self.model.window is not None:
                moment = old.get(label(columns[self.model.window].name))
            removed = True
        else:
            own = row[PREFIX : PREFIX + len(self._attributes)]
            values = dict(zip(self._attributes, own, strict=True))
        compared = questions.answered(row, values)
        change = self.change(place, values, removed, moment_of(moment), compared)
        if change.key is not None and None in change.key.values() and not removed:
            # SQLite lets NULL into a key, in as many rows as there are. To a client they are all
            # one item, so none of them can be shown.
            unknown = [name for name, value in change.key.items() if value is None]
            change.item = {**values, **{name: Unreadable() for name in unknown}}
        return change

    def _converted(self, name: str, value: Any) -> Any:
        try:
            return self._converters[name](value)
        except Exception:
            return Unreadable(value)


class RegistrationWatch(Watched):
    """A watch for changes of a table's row in Headwater's own table, or of the schema."""

    query = (
        "SELECT name, epoch, last, floor, retiring, schema_version "
        "FROM headwater_tables, pragma_schema_version"
    )
    _seen: State = ()  # no state yet

    def on_opened(self) -> Callable[[], None]:
        self._seen = ()
        return self.wake

    def on_state(self, state: State, before: Any) -> Callable[[], None] | None:
        seen, self._seen = self._seen, state
        return None if state == seen else self.on_news(seen or None, state, before)

    @abstractmethod
    def on_news(self, seen: State, state: State, before: Any) -> Callable[[], None] | None:
        """As ``on_state``, for a state that is not as it was ``seen`` before."""


class _TailWatch(RegistrationWatch):
    """Wakes a tail, unless it has read what was committed."""

    def __init__(self, engines: Sequence[sa.Engine], model: TableModel, tail: Tail) -> None:
        self._model = model
        self._tail = tail
        super().__init__(engines, model.name, tail.read_on, model.tracking.name)

    def position(self) -> RowPlace | None:
        # The reader may have found another registration since.
        self.name = self._model.tracking.name
        head = self._tail.head
        return head.place if head is not None and isinstance(head.place, RowPlace) else None

    def on_news(
        self, seen: State, state: State, before: RowPlace | None
    ) -> Callable[[], None] | None:
        if state is not None and seen is not None and state[-1] != seen[-1]:
            return self.wake  # without its triggers a table changes unseen
        head, now = self._tail.head, self.position()
        if state is None or head is None or now is None:
            return self.wake
        epoch, last, _, retiring, _ = state
        place = RowPlace(last)
        if epoch != head.epoch or retiring is not None:
            return self.wake
        if before is not None and not place.includes(before):
            return self.wake  # numbers went back: another database
        return None if now.includes(place) else partial(self._tail.reach, place)


def _picked(rows: Sequence[Row]) -> Sequence[Row]:
    return rows if rows[0][4] is not None else ()
