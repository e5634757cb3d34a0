"""Reads a tracked table on PostgreSQL: pages, the tail's batches and the members of a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import DeclarationError, PositionError, SourceUnavailableError, UsageError
from headwater.feeds.source import EVERYTHING, Change, Filter, Page, Place, Window
from headwater.sql.postgresql.branches import LEFT
from headwater.sql.postgresql.connections import (
    Server,
    describe_server,
    ensure_first_connection,
)
from headwater.sql.postgresql.facts import FACTS, Facts
from headwater.sql.postgresql.faults import unavailable
from headwater.sql.postgresql.place import GONE, MAX_SNAPSHOT, At, SnapshotPlace, Walk
from headwater.sql.postgresql.revision import Revision, revision_of
from headwater.sql.postgresql.schema import triggers
from headwater.sql.postgresql.snapshot import NOTHING, Snapshot
from headwater.sql.postgresql.statements import PICKED, Asked, Statements
from headwater.sql.postgresql.trim import STEP, Trim
from headwater.sql.postgresql.watch import follow
from headwater.sql.reader import Batch, Follow, Following, Head, Reader
from headwater.sql.shape import Shape, as_utc

__all__ = ["PostgreSQLReader"]

Row = Sequence[Any]

# Columns of what was picked, behind the facts.
_XID, _KIND, _NUMBER, _MOMENT, _OLDER, _FIRST = range(FACTS, FACTS + PICKED + 1)

# With no more running transactions than these, a position is short whatever they are.
_FEW = 150


class PostgreSQLReader(Reader):
    """One tracked table of one PostgreSQL database.

    Arguments:
        total: tell changes in one order for all, which waits for older transactions.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        shape: Shape,
        listen: Sequence[sa.Engine] = (),
        *,
        total: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if engine.dialect.driver != "psycopg":
            raise DeclarationError(
                f"tables on PostgreSQL are followed with the driver psycopg: "
                f"postgresql+psycopg://…, not {engine.dialect.driver}"
            )
        self.shape = shape
        self._listen = (engine.sync_engine, *listen)
        self._engine = engine
        # A single statement needs no BEGIN and no ROLLBACK around it.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._total = total
        self._now = now
        self._name = f"table {shape.name}"
        self._server: Server | None = None
        self._statements: Statements | None = None
        self._attributes = tuple(shape.columns)
        # While it is followed.
        self._revision: Revision | None = None
        # Where ends of pages may not fall behind: the epoch, and a transaction known to be over.
        self._known: tuple[str, int] = ("", 0)

    def parse(self, text: str) -> SnapshotPlace:
        return SnapshotPlace.parse(text)

    def beginning(self) -> SnapshotPlace:
        return SnapshotPlace(NOTHING)

    async def head(self) -> Head:
        rows = await self._read(lambda statements: (statements.head(), {}))
        facts = self._facts(rows)
        present, future = rows[0][FACTS : FACTS + 2]
        if present < len(triggers(self.shape.tracking, "")):
            raise DeclarationError(
                f"{self._name}: some of its triggers are gone or disabled; "
                "call add_tracking() again"
            )
        if future and not facts.standby:
            raise DeclarationError(
                f"{self._name} has rows of transactions that this server has not made yet, as "
                "from a dump of another one; call "
                "headwater.sql.renew_epochs() once"
            )
        return Head(facts.epoch, SnapshotPlace(self._bounded(facts)), facts.floor)

    async def locate(self, epoch: str, place: Place) -> None:
        own = _own(place)
        facts = self._facts(await self._read(lambda statements: (statements.head(), {})))
        if epoch != facts.epoch:
            raise PositionError(str(place), "unknown", "it is of another database")
        self._check(own, facts)
        self._note(facts.epoch, own.snapshot.xmax)

    async def batch(self, epoch: str, after: Place, limit: int, *, trimmed: int = 0) -> Batch:
        page, facts = await self._after(
            EVERYTHING, None, self._now(), limit, _own(after), epoch, trimmed
        )
        retiring = None
        if facts.retiring is not None:
            retiring = SnapshotPlace(Snapshot(facts.retiring + 1))
        end = _own(page.end)
        late = facts.held or self._long(facts)
        return Batch(page.changes, end, page.has_more, retiring, late)

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
            return (await self._after(wanted, window, now, limit, _own(after)))[0]
        return await self._newest(
            wanted, window, now, limit, None if before is None else _own(before)
        )

    async def _newest(
        self,
        wanted: Filter,
        window: Window | None,
        now: datetime,
        limit: int,
        before: SnapshotPlace | None,
        below: int | None = None,
    ) -> Page:
        last = before
        if below is not None and (before is None or below < before.snapshot.xmax):
            last = SnapshotPlace(Snapshot(below))
        rows = await self._read(
            lambda statements: statements.newest(wanted, window, now, limit + 1, last)
        )
        facts = self._facts(rows)
        seen = self._bounded(facts) if below is None else facts.now.cut(below)
        if below is None and len(seen.running) > _FEW and seen.xmax <= facts.newest:
            # What the client would be told to have does not fit a position: show less.
            return await self._newest(wanted, window, now, limit, before, seen.xmax)
        told = _told(facts, window)
        found = _picked(rows)
        has_more = len(found) > limit
        walk = Walk(SnapshotPlace(NOTHING), seen, told)
        changes = [
            self._change(row, walk.to(_at(row))) for row in found[max(0, len(found) - limit) :]
        ]
        end = walk.end(seen)
        if before is not None:
            at = before.below
            end = walk.end(seen.cut(before.snapshot.xmax if at is None else at.xid))
            if changes:
                end = walk.to(_at(found[-1]))
        start = walk.to(_at(found[-len(changes)])) if changes else end
        start = SnapshotPlace(start.snapshot, start.parts, past=not changes)
        return Page(changes, start, end, has_more, facts.epoch, None if window is None else now)

    async def _after(
        self,
        wanted: Filter,
        window: Window | None,
        now: datetime,
        limit: int,
        place: SnapshotPlace,
        epoch: str | None = None,
        trimmed: int = 0,
    ) -> tuple[Page, Facts]:
        rows = await self._read(
            lambda statements: statements.after(wanted, window, now, limit + 1, place)
        )
        facts = self._facts(rows)
        if epoch is not None and epoch != facts.epoch:
            raise PositionError(str(place), "unknown", "the database is another one")
        self._check(place, facts, trimmed)
        self._note(facts.epoch, place.snapshot.xmax)
        seen = self._bounded(facts)
        # What left the window is told first; from then on every place says so.
        told = _later(place.told, _told(facts, window))
        walk = Walk(place, seen, told)
        found = [row for row in _picked(rows) if row[_KIND] == LEFT or row[_XID] < seen.xmax]
        has_more = len(found) > limit
        changes: list[Change] = []
        for row in found[:limit]:
            at = _at(row)
            if row[_KIND] == LEFT:
                assert window is not None
                moment = as_utc(row[_MOMENT]) + window.length
                left = SnapshotPlace(place.snapshot, place.parts, moment, at)
                changes.append(self._change(row, left, removed=True))
            else:
                out = window is not None and not _inside(row[_MOMENT], now, window)
                changes.append(self._change(row, walk.to(at), removed=out))
        if has_more:
            end = _own(changes[-1].place)
        else:
            end = walk.end(seen)
            if changes:
                # Who was sent the last one has all.
                sent = _own(changes[-1].place).last
                changes[-1].place = SnapshotPlace(end.snapshot, end.parts, end.told, last=sent)
        first = found[0] if found else None
        start = SnapshotPlace(place.snapshot, place.parts, past=True)
        if first is not None and first[_KIND] != LEFT:
            start = Walk(place, seen, None).to(_at(first))
        as_of = None if window is None else now
        return Page(changes, start, end, has_more, facts.epoch, as_of), facts

    async def members(
        self, wanted: Filter, window: Window
    ) -> Sequence[tuple[Mapping[str, Any], datetime]]:
        rows = await self._read(lambda statements: statements.members(wanted, window, self._now()))
        return [(dict(zip(self.shape.key, row, strict=False)), as_utc(row[-1])) for row in rows]

    async def trim(
        self,
        *,
        max_age: timedelta | None,
        column: str | None,
        max_count: int | None,
        grace: float,
    ) -> int:
        run = Trim(
            self.shape, None if max_age is None else self._now() - max_age, column, max_count
        )
        async with self._connected(self._engine) as connection:
            told = await run.announce(connection)
            await connection.commit()
        if told:
            await asyncio.sleep(grace)
        removed, more = 0, True
        while more:
            async with self._connected(self._engine) as connection:
                step = await run.step(connection)
                await connection.commit()
            removed, more = removed + step, step == STEP
        return removed

    def follow(
        self,
        wake: Callable[[], None],
        known: Callable[[], Head | None],
        reach: Callable[[Place], None] | None = None,  # noqa: ARG002 - it is not known
    ) -> Follow:
        watch = follow(self._engine, self._listen, self.shape.tracking, wake, known)
        revision = self._revision = revision_of(self._engine)

        def done() -> Awaitable[None]:
            self._revision = None
            return revision.let_go()

        return Following(watch, done)

    async def revision(self) -> Hashable | None:
        return None if self._revision is None else await self._revision.ask()

    async def _read(self, ask_for: Callable[[Statements], Asked]) -> Sequence[Row]:
        async with self._connected(self._reading) as connection:
            if self._statements is None:
                self._server = await describe_server(connection)
                self._statements = Statements(
                    self.shape, total=self._total, control=self._server.control
                )
            rows: Sequence[Row] = (await connection.execute(*ask_for(self._statements))).all()
            return rows

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            await ensure_first_connection(self._engine)
            async with engine.connect() as connection:
                yield connection
        except Exception as error:
            said = unavailable(error)
            if said is None:
                raise
            raise SourceUnavailableError(self._name, said) from error

    def _facts(self, rows: Sequence[Row]) -> Facts:
        if not rows:
            raise SourceUnavailableError(
                self._name, "the database does not track it; is the database migrated?"
            )
        facts = Facts.of(rows[0], self._total)
        if not self.shape.tracking.served_by(facts.declared):
            raise DeclarationError(
                f"{self._name}: its triggers were made for {facts.declared}, the model declares "
                f"{self.shape.tracking.declared()}; a migration with add_tracking() is missing"
            )
        return facts

    def _note(self, epoch: str, xmax: int) -> None:
        """Ends of pages do not fall behind this from now on, whatever rows are deleted."""
        known, most = self._known
        self._known = (epoch, max(most, xmax) if known == epoch else xmax)

    def _bounded(self, facts: Facts) -> Snapshot:
        """What a client has that was told all: up to the latest change, and short enough.

        Later transactions left nothing here. Leaving them out keeps positions short and the same
        while the table is quiet. It also keeps them true after a crash of the server, which uses
        the ids of transactions that were rolled back just before it a second time, but never the
        id of one that committed.
        """
        epoch, most = self._known
        known = most if epoch == facts.epoch else 0
        seen = facts.now.cut(max(facts.newest + 1, facts.floor + 1, known))
        self._note(facts.epoch, seen.xmax)
        return _short(seen) if len(seen.running) > _FEW else seen

    def _long(self, facts: Facts) -> bool:
        return len(facts.now.running) > _FEW and self._bounded(facts).xmax <= facts.newest

    def _check(self, place: SnapshotPlace, facts: Facts, trimmed: int = 0) -> None:
        snapshot = place.snapshot
        if snapshot.xmax > facts.seen.xmax or any(map(snapshot.has, facts.seen.running)):
            raise PositionError(str(place), "unknown", "it lies in the future")
        if facts.floor > trimmed and not snapshot.covers(Snapshot(facts.floor + 1)):
            raise PositionError(str(place), "expired")

    def _change(self, row: Row, place: SnapshotPlace, *, removed: bool = False) -> Change:
        moment = None if row[_MOMENT] is None else as_utc(row[_MOMENT])
        if row[_KIND] == GONE:
            names = (*self.shape.key, *self.shape.kept)
            old = dict(zip(names, row[_FIRST:], strict=False))
            return Change(place, old, removed=True, key=self._key(old), moment=moment)
        own = row[len(row) - len(self._attributes) :]
        values = dict(zip(self._attributes, own, strict=True))
        key = self._key(values) if self.shape.tracking.keyed else None
        item = None if removed else values
        return Change(place, values, item, removed=removed, key=key, moment=moment)

    def _key(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: values[name] for name in self.shape.key}


def _short(seen: Snapshot) -> Snapshot:
    """The longest part of it whose text fits a position."""
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


def _inside(moment: datetime | None, now: datetime, window: Window) -> bool:
    return moment is not None and as_utc(moment) + window.length > now


def _told(facts: Facts, window: Window | None) -> datetime | None:
    """When the last row of the selection left: the same while nothing changes."""
    if window is None or facts.last_left is None:
        return None
    return as_utc(facts.last_left) + window.length


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return one or other
    return max(one, other)


def _own(place: Place | None) -> SnapshotPlace:
    if not isinstance(place, SnapshotPlace):
        raise UsageError(f"{place!r} is not a place in a table on PostgreSQL")
    return place
