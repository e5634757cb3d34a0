"""Reads a table without tracking: in the order of a date-time and the primary key.

A row may be committed after rows with later moments: its transaction was long, or its clock was
behind. Each read begins ``reread`` before the newest row and leaves out what was sent already, so
it finds rows that are at most that late.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.errors import DeclarationError, PositionError
from headwater.feeds._source import EVERYTHING, Change, Filter, Page, Place
from headwater.sql._expressions import Column, Condition
from headwater.sql._filters import Filters, Query, form_of
from headwater.sql._judging import NO_QUESTIONS, Questions, judged_columns, question_columns
from headwater.sql._model import FIRST, LAST, TableModel, as_utc, date_time_type
from headwater.sql._reader import ChangeBatch, CommitWatch, Head, Row, TableReader, Tail, WatchGroup
from headwater.sql._unreadable import cannot_be_read, raw_keys, read_rows
from headwater.sql._wanted import Wanted
from headwater.sql.postgresql._revision import revision_of
from headwater.sql.postgresql._watch import ChannelWatch
from headwater.sql.sqlite._connections import ReadConnection, file_of
from headwater.sql.sqlite._place import moment_of, moment_text, text_of
from headwater.sql.untracked._place import MOST, KeysetPlace, RowAt, Sent

# Before all moments that a row can have.
_BEGINNING = KeysetPlace(datetime(1, 1, 1, tzinfo=UTC))

_READ = 500

# The column of whether a row is wanted.
_MATCHES = 1


class UntrackedReader(TableReader):
    """One untracked table.

    Arguments:
        column: the attribute of the date-time that rows are ordered by.
        reread: how late a row may be committed.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        model: TableModel,
        column: str,
        reread: timedelta,
        listen: Sequence[AsyncEngine | sa.Engine] = (),
    ) -> None:
        if engine.dialect.name not in ("sqlite", "postgresql"):
            raise DeclarationError(
                f"tables on {engine.dialect.name!r} cannot be followed; SQLite and PostgreSQL can"
            )
        if reread < timedelta(0):
            raise DeclarationError(f"reread={reread} must not be negative")
        super().__init__(engine, model, listen)
        self._reread = reread
        self._lite = engine.dialect.name == "sqlite"
        stored = model.check_moment(column)
        kind = date_time_type(stored)
        self._zone = kind is not None and bool(kind.timezone)
        self._moment: Column = (
            moment_text(sa.type_coerce(stored, sa.Text))
            if self._lite
            else sa.type_coerce(stored, sa.DateTime(timezone=self._zone))
        )
        # All others, and NULL, are left out.
        self._dated = [self._moment > self._stored(FIRST), self._moment < self._stored(LAST)]
        self._keys = [model.columns[name] for name in model.key]
        self._filters = Filters(model.columns)
        self._learned = False
        self._recent: dict[str, datetime | None] = {}
        # While the tail is attached.
        self._ask_revision: Callable[[], Awaitable[Hashable | None]] | None = None

    def parse(self, text: str) -> KeysetPlace:
        return KeysetPlace.parse(text)

    def beginning(self) -> KeysetPlace:
        return KeysetPlace(datetime.min.replace(tzinfo=UTC))

    async def head(self) -> Head:
        return Head(self._epoch, await self._latest())

    async def locate(self, epoch: str, place: Place) -> None:
        if epoch != self._epoch:
            raise PositionError(str(place), "unknown", "it is of another table")

    async def batch(
        self, head: Head, limit: int, questions: Questions = NO_QUESTIONS, /
    ) -> ChangeBatch:
        page = await self._after(EVERYTHING, limit, head.place, questions)
        return ChangeBatch(page.changes, page.end, page.has_more)

    async def page_before(self, wanted: Wanted, limit: int, before: Place | None, /) -> Page:
        # The client of a page has what was there before it. Read first, so that the end does not
        # include a row that is committed between the two reads.
        end = await self._latest()
        place = None if before is None else self.own_place(before, KeysetPlace)
        conditions = [] if place is None else [self._below(place)]
        order = [part.desc() for part in (self._moment, *self._keys)]
        rows = await self._read(conditions, order, limit + 1, wanted.filter)
        found = [self._row(row) for row in reversed(rows[:limit])]
        sent = Sent(end, {}, self._reread)
        changes = [Change(sent.to(at), values, values) for at, values in found]
        end = sent.end()
        if place is not None:
            last = found[-1][0] if found else place.after
            end = KeysetPlace(end.until, after=last) if last is not None else end
        start = KeysetPlace(end.until, after=found[0][0]) if found else _past(end)
        return Page(changes, start, end, len(rows) > limit, self._epoch)

    async def page_after(self, wanted: Wanted, limit: int, after: Place, /) -> Page:
        return await self._after(wanted.filter, limit, after, NO_QUESTIONS)

    async def _after(self, wanted: Filter, limit: int, after: Place, questions: Questions) -> Page:
        place = self.own_place(after, KeysetPlace)
        changes: list[Change] = []
        if place.after is not None:
            # From a page of the past: first the rest in the order, then as from the newest page.
            end = await self._latest()
            one, other = self._tuples(place.after)
            order = [self._moment, *self._keys]
            rows = await self._read([one > other], order, limit + 1, wanted, questions=questions)
            for row in rows[:limit]:
                at, values = self._row(row)
                compared = questions.answered(row, values)
                changes.append(Change(KeysetPlace(end.until, after=at, last=at), compared, values))
            more = len(rows) > limit
            last = changes[-1].place if more else None
            return Page(changes, self._start(changes, place), last or end, more, self._epoch)
        known = dict(self._recent)
        while True:
            rows = await self._read(
                [self._moment > self._stored(place.until)],
                [self._moment, *self._keys],
                _READ + len(place.seen) + 1,
                marked=wanted,
                questions=questions,
            )
            more = len(rows) > _READ + len(place.seen)
            found = [self._row(row) for row in rows]
            # The moments of what the client has: of marks in its place, and of rows deleted since.
            seen = {at.mark: at.moment for at, _ in found if at.mark in place.seen}
            gone = {} if more else {m: at for m, at in known.items() if m not in place.seen}
            here = {at.mark for at, _ in found}
            seen.update({m: at for m, at in gone.items() if m not in here and at is not None})
            kept = place.seen if more else {m: a for m, a in place.seen.items() if m in here}
            sent = Sent(KeysetPlace(place.until, kept), seen, self._reread)
            for row, (at, values) in zip(rows, found, strict=True):
                if at.mark in place.seen:
                    continue
                place = sent.to(at)
                if row[_MATCHES]:
                    if len(changes) == limit:
                        end = self.own_place(changes[-1].place, KeysetPlace)
                        return Page(changes, self._start(changes, end), end, True, self._epoch)
                    changes.append(
                        self.change(place, values, False, None, questions.answered(row, values))
                    )
            if not more:
                end = sent.end()
                self._note(found, end)
                return Page(changes, self._start(changes, end), end, False, self._epoch)

    def trimming(self, *_: object) -> NoReturn:
        raise DeclarationError(
            f"{self.name} is not tracked: Headwater removes nothing from it. Delete its rows "
            "yourself; positions before them do not expire"
        )

    def watch_commits(self, tail: Tail, /) -> CommitWatch:
        name, wake = self.model.name, tail.read_on
        watch = ChannelWatch(
            self.engine, None, name, wake, lambda: tail.head, writers=self._writers
        )
        if not self._lite:
            revision = revision_of(self.engine)
            self._ask_revision, free = revision.ask, revision.release
        elif file_of(self.engine.sync_engine) is not None:
            connection = ReadConnection(self.engine)
            self._ask_revision, free = connection.version, connection.close
        else:
            return watch

        async def close() -> None:
            self._ask_revision = None
            await free()

        return WatchGroup(close, watch.stop)

    async def revision(self) -> Hashable | None:
        ask = self._ask_revision
        if ask is None:
            return None
        with self.translated():
            return await ask()

    @property
    def _epoch(self) -> str:
        """Always the same: nothing distinguishes one life of the table from another."""
        name = f"{self.engine.url.database} {self.model.tracking.name} {self._moment}"
        return hashlib.blake2s(name.encode(), digest_size=6).hexdigest()

    async def _latest(self) -> KeysetPlace:
        """The place of a client that has all rows."""
        known = dict(self._recent)
        order = [part.desc() for part in (self._moment, *self._keys)]
        rows = await self._read([], order, MOST)
        sent = Sent(_BEGINNING, known, self._reread)
        found = [self._row(row) for row in reversed(rows)]
        for at, _ in found:
            sent.to(at)
        end = sent.end()
        self._note(found, end)
        return end

    def _note(self, found: Sequence[tuple[RowAt, Any]], end: KeysetPlace) -> None:
        self._recent |= {at.mark: at.moment for at, _ in found}
        self._recent = {m: a for m, a in self._recent.items() if a is None or a > end.until}

    async def _read(
        self,
        conditions: Sequence[Condition],
        order: Sequence[Column],
        count: int,
        wanted: Filter = EVERYTHING,
        *,
        marked: Filter = EVERYTHING,
        questions: Questions = NO_QUESTIONS,
    ) -> Sequence[Row]:
        """Read rows that a filter lets through, and of each whether ``marked`` does."""
        await self._learn()
        form, values = form_of(wanted)
        mark, known = form_of(marked)
        if wanted == EVERYTHING:
            values = known
        values = {**values, **questions.parameters}
        model, dialect = self.model, self.engine.dialect.name
        keys = [sa.cast(key, sa.Text) for key in self._keys]
        answers = question_columns(questions.form, model, self._filters.is_value, dialect)

        def query(columns: Sequence[Column]) -> Query:
            found = sa.select(
                self._moment.label("headwater_moment"),
                self._filters.matches(mark).label("headwater_matches"),
                *(key.label(f"headwater_key_{n}") for n, key in enumerate(keys)),
                *(column.label(f"headwater_{n}") for n, column in enumerate(columns)),
                *answers,
            )
            found = found.where(*self._dated, self._filters.matches(form), *conditions)
            return found.order_by(*order).limit(count)

        async with self.connected() as connection:
            try:
                read = await connection.execute(query([*model.columns.values()]), values)
                return read.all()
            except Exception as error:
                if not cannot_be_read(error):
                    raise
            return await read_rows(connection, model, (query(raw_keys(model, dialect)), values))

    def _row(self, row: Row) -> tuple[RowAt, dict[str, Any]]:
        moment = moment_of(row[0]) if self._lite else as_utc(row[0])
        assert moment is not None
        width = 2 + len(self._keys)
        values = dict(zip(self.model.columns, row[width:], strict=False))
        return RowAt(moment, json.dumps(list(row[2:width]))), values

    async def _learn(self) -> None:
        """Ask the database how it compares the columns, once."""
        if not self._learned:
            async with self.connected() as connection:
                self.judged = await judged_columns(connection, self.model)
            self._learned = True

    def _start(self, changes: Sequence[Change], place: KeysetPlace) -> KeysetPlace:
        first = self.own_place(changes[0].place, KeysetPlace).last if changes else None
        return _past(place) if first is None else KeysetPlace(place.until, after=first)

    def _below(self, place: KeysetPlace) -> Condition:
        if place.after is None:
            return sa.true()
        one, other = self._tuples(place.after)
        return one <= other if place.past else one < other

    def _tuples(self, at: RowAt) -> tuple[sa.Tuple, sa.Tuple]:
        wanted = [
            self.model.cast(sa.literal(text, sa.Text), name)
            for text, name in zip(at.keys, self.model.key, strict=True)
        ]
        moment = sa.literal(self._stored(at.moment), self._moment.type)
        return sa.tuple_(self._moment, *self._keys), sa.tuple_(moment, *wanted)

    def _stored(self, moment: datetime) -> Any:
        if self._lite:
            return text_of(moment)
        return moment if self._zone else moment.astimezone(UTC).replace(tzinfo=None)


def _past(end: KeysetPlace) -> KeysetPlace:
    return KeysetPlace(end.until, end.seen, end.after, past=True)
