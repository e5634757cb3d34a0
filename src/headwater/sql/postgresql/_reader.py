"""Reads a tracked table on PostgreSQL: pages, the tail's batches and the members of a window."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import PositionError, SourceUnavailableError
from headwater.feeds._source import EVERYTHING, Change, Filter, Page, Place, Window
from headwater.sql._filters import Asked
from headwater.sql._judging import NO_QUESTIONS, Questions
from headwater.sql._model import TableModel, as_utc
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
from headwater.sql._unreadable import cannot_be_read, read_rows
from headwater.sql._wanted import Wanted
from headwater.sql.postgresql._conditions import DECLARED, FACTS, Facts
from headwater.sql.postgresql._connections import (
    ensure_first_connection,
    life_of,
    single_reads,
)
from headwater.sql.postgresql._drivers import check_driver
from headwater.sql.postgresql._looks import CatalogueWatch
from headwater.sql.postgresql._place import MAX_SNAPSHOT, At, SnapshotPlace, Walk
from headwater.sql.postgresql._revision import Revision, revision_of
from headwater.sql.postgresql._snapshot import NOTHING, TransactionSnapshot
from headwater.sql.postgresql._statements import PICKED, PostgreSQLStatements
from headwater.sql.postgresql._triggers import notification, qualified
from headwater.sql.postgresql._watch import table_watch

# Columns of what was picked, behind the facts.
_XID, _KIND, _NUMBER, _MOMENT, _OLDER, _FIRST = range(FACTS, FACTS + PICKED + 1)

# Connections whose prepared statements are of other types of columns: tried one after the other.
_STALE_PLANS = 50

# With at most so many running transactions every position is short enough.
FEW_RUNNING = 150


class PostgreSQLReader(TableReader):
    """One tracked table of one PostgreSQL database.

    Arguments:
        total: send changes in one order for all, which waits for older transactions.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        model: TableModel,
        listen: Sequence[AsyncEngine | sa.Engine] = (),
        *,
        total: bool = False,
    ) -> None:
        check_driver(engine)
        super().__init__(engine, model, listen)
        self._reading = single_reads(engine)
        self._total = total
        self._statements: PostgreSQLStatements | None = None
        self._catalogue = CatalogueWatch()
        self._attributes = tuple(model.columns)
        # While the tail is attached.
        self._revision: Revision | None = None
        # Ends of pages do not fall behind this: the epoch, and a transaction known to be over.
        self._known: tuple[str, int] = ("", 0)

    def parse(self, text: str) -> SnapshotPlace:
        return SnapshotPlace.parse(text)

    def beginning(self) -> SnapshotPlace:
        return SnapshotPlace(NOTHING)

    def nothing(self) -> SnapshotPlace:
        return SnapshotPlace(NOTHING, began=NEWEST)

    async def head(self) -> Head:
        # The table may have been changed since it was read last.
        self._statements = None
        rows = await self._read(lambda statements: (statements.head, {}))
        facts = self._facts(rows)
        return Head(facts.epoch, SnapshotPlace(self._bounded(facts)), facts.floor)

    async def locate(self, epoch: str, place: Place) -> None:
        own = self.own_place(place, SnapshotPlace)
        facts = self._facts(await self._read(lambda statements: (statements.head, {})))
        if epoch != facts.epoch:
            raise PositionError(str(place), "unknown", "it is of another database")
        self._check(own, facts)
        self._note(facts.epoch, own.snapshot.xmax)

    async def batch(
        self, head: Head, limit: int, questions: Questions = NO_QUESTIONS, /
    ) -> ChangeBatch:
        page, facts = await self._after(
            self._wanted(EVERYTHING), limit, head.place, head, questions
        )
        retiring = None
        if facts.retiring is not None:
            retiring = SnapshotPlace(TransactionSnapshot(facts.retiring + 1))
        late = facts.held or self._long(facts)
        return ChangeBatch(page.changes, page.end, page.has_more, retiring, late)

    async def page_before(self, wanted: Wanted, limit: int, before: Place | None, /) -> Page:
        place = None if before is None else self.own_place(before, SnapshotPlace)
        return await self._newest(wanted, limit, place)

    async def page_after(self, wanted: Wanted, limit: int, after: Place, /) -> Page:
        return (await self._after(wanted, limit, after))[0]

    async def _newest(
        self, wanted: Wanted, limit: int, before: SnapshotPlace | None, below: int | None = None
    ) -> Page:
        last = before
        if below is not None and (before is None or below < before.snapshot.xmax):
            last = SnapshotPlace(TransactionSnapshot(below))
        rows = await self._read(lambda statements: statements.newest(wanted, limit + 1, last))
        facts = self._facts(rows)
        seen = self._bounded(facts) if below is None else facts.now.cut(below)
        if below is None and len(seen.running) > FEW_RUNNING and seen.xmax <= facts.newest:
            # What the client would have does not fit a position: return less.
            return await self._newest(wanted, limit, before, seen.xmax)
        found = _picked(rows)
        has_more = len(found) > limit
        walk = Walk(SnapshotPlace(NOTHING), seen, wanted.leaves(facts.last_left))
        shown = found[max(0, len(found) - limit) :]
        changes = [self._change(row, walk.to(_at(row))) for row in shown]
        end = walk.end(seen)
        if before is not None:
            at = before.below
            end = walk.end(seen.cut(before.snapshot.xmax if at is None else at.xid))
            if changes:
                end = walk.to(_at(found[-1]))
        start = walk.to(_at(shown[0])) if shown else end
        start = SnapshotPlace(start.snapshot, start.parts, past=not changes)
        return Page(changes, start, end, has_more, facts.epoch, wanted.as_of)

    async def _after(
        self,
        wanted: Wanted,
        limit: int,
        after: Place,
        head: Head | None = None,
        questions: Questions = NO_QUESTIONS,
    ) -> tuple[Page, Facts]:
        place = self.own_place(after, SnapshotPlace)
        rows = await self._read(
            lambda statements: statements.after(wanted, limit + 1, place, questions)
        )
        facts = self._facts(rows)
        if head is not None and head.epoch != facts.epoch:
            raise PositionError(str(place), "unknown", "the database is another one")
        self._check(place, facts, 0 if head is None else head.trimmed)
        self._note(facts.epoch, place.snapshot.xmax)
        seen = self._bounded(facts)
        # Rows that left the window come first; every place after them says that they were sent.
        left = wanted.leaves(facts.last_left)
        until = max(filter(None, (place.removed_until, left)), default=None)
        whole = facts.now == facts.seen and seen.xmax > facts.newest
        began = place.began
        if began == NEWEST:
            began = min(facts.seen.running, default=facts.seen.xmax)
        walk = Walk(place, seen, until, facts.seen.xmax, whole=whole, began=began)
        found = [row for row in _picked(rows) if row[_KIND] == LEFT or row[_XID] < seen.xmax]
        has_more = len(found) > limit
        changes: list[Change] = []
        at = None
        for row in found[:limit]:
            at = _at(row)
            if row[_KIND] == LEFT:
                gone = walk.left(at, wanted.leaves(row[_MOMENT]))
                changes.append(self._change(row, gone, removed=True))
            else:
                out = not wanted.has(row[_MOMENT])
                change = self._change(row, walk.to(at), removed=out, questions=questions)
                changes.append(change)
        end: Place | None = changes[-1].place if has_more else None
        if end is None:
            end = last = walk.end(seen)
            if changes:
                # A client that was sent the last one has all.
                sent = None if found[-1][_KIND] == LEFT else at
                changes[-1].place = replace(last, last=sent)
        start = SnapshotPlace(place.snapshot, place.parts, past=True)
        if found and found[0][_KIND] != LEFT:
            start = Walk(place, seen, None).to(_at(found[0]))
        return Page(changes, start, end, has_more, facts.epoch, wanted.as_of), facts

    async def members(self, wanted: Filter, window: Window, /) -> Sequence[Member]:
        selected = self._wanted(wanted, window)
        rows = await self._read(lambda statements: statements.members(selected, window.column))
        return [(self.key_of(row), as_utc(row[-1])) for row in rows]

    async def exceeds(self, wanted: Filter, window: Window | None, count: int, /) -> bool:
        selected = self._wanted(wanted, window)
        return bool(await self._read(lambda statements: statements.beyond_count(selected, count)))

    def trimming(self, cutoff: datetime | None, column: str | None, max_count: int | None) -> Trim:
        # A transaction that still runs may add changes below those of younger ones.
        statements = PostgreSQLStatements(self.model, self.judged, total=True)
        wake = notification(self.model.tracking)
        return table_trim(statements, cutoff, column, max_count, wake)

    def watch_commits(self, tail: Tail, /) -> CommitWatch:
        tracking = self.model.tracking
        watch = table_watch(self.engine, self._writers, tracking, tail)
        revision = self._revision = revision_of(self.engine)
        self._catalogue.follow(self.engine, [qualified(tracking)], tail.read_on)

        async def close() -> None:
            self._revision = None
            await self._catalogue.stop()
            await revision.release()

        return WatchGroup(close, watch.stop)

    async def revision(self) -> Hashable | None:
        return None if self._revision is None else await self._revision.ask()

    async def _read(self, ask_for: Callable[[PostgreSQLStatements], Asked]) -> Sequence[Row]:
        with self.translated():
            await ensure_first_connection(self.engine)
            for _ in range(_STALE_PLANS):
                async with self._reading.connect() as connection:
                    try:
                        statements = await self._compared(connection)
                        rows = (await connection.execute(*ask_for(statements))).all()
                    except Exception as error:
                        if cannot_be_read(error):
                            statements = await self._make(connection, keys_only=True)
                            return await read_rows(connection, self.model, ask_for(statements))
                        if not isinstance(error, sa.exc.NotSupportedError):
                            raise
                        # "Cached plan must not change result type": a column has another type
                        # than when this connection prepared the statement.
                        await connection.invalidate()
                    else:
                        return rows
        raise SourceUnavailableError(self.name, "the types of its columns are being changed")

    async def _make(
        self, connection: AsyncConnection, *, keys_only: bool = False
    ) -> PostgreSQLStatements:
        life = await life_of(connection)
        return PostgreSQLStatements(
            self.model, self.judged, total=self._total, life=life, keys_only=keys_only
        )

    async def _compared(self, connection: AsyncConnection) -> PostgreSQLStatements:
        """The statements, once the table was compared with its model and its tracking."""
        due = self._catalogue.is_due()
        if self._statements is not None and not due:
            return self._statements
        if await self.compare(connection):
            self._statements = None
        if self._statements is None:
            self._statements = await self._make(connection)
        self._catalogue.note()
        return self._statements

    def _facts(self, rows: Sequence[Row]) -> Facts:
        self.check_declared(rows[0][DECLARED] if rows else None)
        facts = Facts(rows[0], self._total)
        if facts.beyond:
            raise self.broken(
                "it has rows of transactions that this server has not made yet, as from a dump of "
                "another server; call headwater.sql.renew_epochs() once"
            )
        return facts

    def _note(self, epoch: str, xmax: int) -> None:
        """Keep later ends of pages from falling behind this, whatever rows are deleted."""
        known, most = self._known
        self._known = (epoch, max(most, xmax) if known == epoch else xmax)

    def _bounded(self, facts: Facts) -> TransactionSnapshot:
        """The snapshot of a client that has all, cut after the table's latest change.

        Later transactions changed nothing here. Without them positions are short, and stay the
        same while the table is quiet. They also stay true after a crash: the server then uses the
        ids of transactions that were rolled back again, but never the id of one that committed.
        """
        epoch, most = self._known
        known = most if epoch == facts.epoch else 0
        seen = facts.now.cut(max(facts.newest + 1, facts.floor + 1, known))
        self._note(facts.epoch, seen.xmax)
        return _short(seen) if len(seen.running) > FEW_RUNNING else seen

    def _long(self, facts: Facts) -> bool:
        return len(facts.now.running) > FEW_RUNNING and self._bounded(facts).xmax <= facts.newest

    def _check(self, place: SnapshotPlace, facts: Facts, trimmed: int = 0) -> None:
        snapshot, began = place.snapshot, place.began
        if snapshot.xmax > facts.seen.xmax or any(map(snapshot.has, facts.seen.running)):
            raise PositionError(str(place), "unknown", "it lies in the future")
        if began is not None and began > facts.floor:
            return
        if facts.floor > trimmed and not snapshot.covers(TransactionSnapshot(facts.floor + 1)):
            raise PositionError(str(place), "expired")

    def _change(
        self,
        row: Row,
        place: SnapshotPlace,
        *,
        removed: bool = False,
        questions: Questions = NO_QUESTIONS,
    ) -> Change:
        moment = None if row[_MOMENT] is None else as_utc(row[_MOMENT])
        if row[_KIND] == GONE:
            names = (*self.model.key, *self.model.kept)
            removed, values = True, dict(zip(names, row[_FIRST:], strict=False))
        else:
            last = len(row) - questions.width
            own = row[last - len(self._attributes) : last]
            values = dict(zip(self._attributes, own, strict=True))
        return self.change(place, values, removed, moment, questions.answered(row, values))


def _short(seen: TransactionSnapshot) -> TransactionSnapshot:
    """The longest part of a snapshot whose text fits a position."""
    if len(str(seen)) <= MAX_SNAPSHOT:
        return seen
    few, many = 0, len(seen.running)
    while many - few > 1:
        middle = (few + many) // 2
        if len(str(seen.cut(seen.running[middle]))) <= MAX_SNAPSHOT:
            few = middle
        else:
            many = middle
    return seen.cut(seen.running[few])


def _picked(rows: Sequence[Row]) -> Sequence[Row]:
    return rows if rows[0][_KIND] is not None else ()


def _at(row: Row) -> At:
    return At(row[_XID], 0 if row[_KIND] == GONE else 1, row[_NUMBER], row[_OLDER] or "")
