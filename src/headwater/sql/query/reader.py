"""Reads a live query: pages, the tail's batches, and the checks of positions."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import DeclarationError, PositionError, SourceUnavailableError, UsageError
from headwater.feeds.source import EVERYTHING, Change, Filter, Page, Place
from headwater.sql.faults import unavailable
from headwater.sql.model import tracking_of
from headwater.sql.postgresql.connections import describe_server, ensure_first_connection
from headwater.sql.postgresql.snapshot import NOTHING
from headwater.sql.postgresql.triggers import channel
from headwater.sql.postgresql.watch import watch_channel
from headwater.sql.query.changes import change_for, changes_of, item_of
from headwater.sql.query.derivation import Derivation
from headwater.sql.query.first_rows import FirstRows
from headwater.sql.query.look import Look, Looker, PostgreSQLLooker, SQLiteLooker
from headwater.sql.query.place import Counters, Key, QueryPlace, Segment
from headwater.sql.query.poll import CHUNK, Affected, Poll, Queries
from headwater.sql.query.trim import LinkTrim
from headwater.sql.query.watch import CountersWatch, WatchGroup
from headwater.sql.reader import TRIM_STEP, ChangeBatch, CommitWatch, Head
from headwater.sql.sqlite.connections import file_of, guard

__all__ = ["QueryReader"]


class QueryReader:
    """One live query over one database.

    Each read is one transaction in one snapshot, and holds no connection once it returns. Only a
    tail's batch that is not the last of its poll keeps the transaction for the next one.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        derivation: Derivation,
        name: str,
        listen: Sequence[AsyncEngine | sa.Engine] = (),
    ) -> None:
        self.engine = engine
        self.name = name
        self.derivation = derivation
        self._writers = [
            one.sync_engine if isinstance(one, AsyncEngine) else one for one in (engine, *listen)
        ]
        self._tracking = {table: tracking_of(table) for table in derivation.tables}
        self._reading = engine
        looker: type[Looker]
        if engine.dialect.name == "sqlite":
            if file_of(engine.sync_engine) is None:
                raise DeclarationError(
                    f"{name}: a live query reads in a transaction of its own, and a database in "
                    "memory has one connection for everybody: use a file"
                )
            guard(engine.sync_engine)
            looker = SQLiteLooker
        elif engine.dialect.name == "postgresql":
            if engine.dialect.driver != "psycopg":
                raise DeclarationError(
                    f"{name}: a live query on PostgreSQL needs the driver psycopg: "
                    f"postgresql+psycopg://…, not {engine.dialect.driver}"
                )
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ")
            looker = PostgreSQLLooker
        else:
            raise DeclarationError(
                f"{name}: a live query on {engine.dialect.name!r} cannot be followed; SQLite and "
                "PostgreSQL can"
            )
        names = {table: tracking.name for table, tracking in self._tracking.items()}
        self._looker = looker(name, names, derivation.links, _fingerprint(derivation, engine))
        self._queries = Queries(name, derivation, self._looker)
        self._described = engine.dialect.name == "sqlite"
        self._kinds = tuple(self._kind(*column) for column in derivation.key.values())
        self._open: _OpenPoll | None = None

    def parse(self, text: str) -> QueryPlace:
        """Read the text of a place. Raises PositionError."""
        sqlite = isinstance(self._looker, SQLiteLooker)
        return QueryPlace.parse(text, self._kinds, len(self._tracking) if sqlite else None)

    async def head(self) -> Head:
        """Where the query is now."""
        async with self._connected() as connection:
            look = await connection.run_sync(self._look, None)
        return Head(look.epoch, QueryPlace.at_once(look.now))

    async def locate(self, epoch: str, place: QueryPlace) -> None:
        """Raises PositionError unless the place can be resumed now."""
        async with self._connected() as connection:
            look = await connection.run_sync(self._look, place)
        if look.epoch != epoch:
            raise PositionError(str(place), "unknown", "it is of another database or query")

    async def batch(self, epoch: str, after: Place, limit: int, /) -> ChangeBatch:
        """The changes after a place, for all filters, for the tail."""
        place = _own(after)
        poll = self._open
        if poll is None or poll.place is not place:
            await self.close()
            poll = self._open = _OpenPoll(self, place, min(limit, CHUNK))
        try:
            found = await poll.read(epoch)
        except BaseException:
            await self.close()
            raise
        changes = [change for one in found for change in changes_of(self.derivation, one)]
        if poll.done:
            await self.close()
            return ChangeBatch(changes, poll.end, False, poll.retiring)
        poll.place = found[-1].place
        return ChangeBatch(changes, poll.place, True, poll.retiring)

    async def close(self) -> None:
        """End a poll that was not read to its end."""
        poll, self._open = self._open, None
        if poll is not None:
            await poll.close()

    async def page(
        self,
        wanted: Filter,
        limit: int,
        *,
        after: Place | None = None,
        before: Place | None = None,
    ) -> Page:
        """As ``Source.page``."""
        if limit < 1:
            raise UsageError(f"limit={limit} must be at least 1")
        if after is not None:
            return await self._after(wanted, limit, _own(after))
        below = None if before is None else _own(before).start
        if self.derivation.limit is not None:
            return await self._first(wanted, limit, below)
        async with self._connected() as connection:
            look = await connection.run_sync(self._look, None)
            rows = await connection.run_sync(self._queries.newest, wanted, limit + 1, below)
        shown = rows[limit - 1 :: -1] if len(rows) >= limit else rows[::-1]
        end = QueryPlace.at_once(look.now)
        if below is not None:
            nothing = NOTHING if isinstance(self._looker, PostgreSQLLooker) else self._no_counters
            upper = (Segment(None, nothing),)
            end = QueryPlace((Segment(shown[-1][0], look.now), *upper) if shown else upper)
        changes = [item_of(self.derivation, end, row) for _, row in shown]
        start = QueryPlace.at_once(look.now, shown[0][0] if shown else below)
        return Page(changes, start, end, len(rows) > limit, look.epoch)

    async def _first(self, wanted: Filter, limit: int, below: Key | None) -> Page:
        """A page of the first rows of a query with LIMIT; the first one is shown last."""
        async with self._connected() as connection:
            look = await connection.run_sync(self._look, None)
            rows = await connection.run_sync(self._queries.first, wanted)
        if below is not None:
            keys = [key for key, _ in rows]
            # A page whose beginning has left the window has nothing before it.
            rows = rows[keys.index(below) + 1 :] if below in keys else []
        shown = rows[:limit][::-1]
        end = QueryPlace.at_once(look.now)
        changes = [item_of(self.derivation, end, row) for _, row in shown]
        start = QueryPlace.at_once(look.now, shown[0][0] if shown else below)
        return Page(changes, start, end, len(rows) > limit, look.epoch)

    async def _after(self, wanted: Filter, limit: int, place: QueryPlace) -> Page:
        chunk = min(CHUNK, max(2 * limit, 50))
        changes: list[Change] = []
        first: Key | None = None
        more = False
        async with self._connected() as connection:
            poll = await connection.run_sync(self._begin, place, wanted, chunk)
            affected = poll.affected()
            while not more:
                found = await connection.run_sync(lambda _: next(affected, None))
                if found is None:
                    break
                for one in found:
                    change = change_for(self.derivation, one, wanted)
                    if change is None:
                        continue
                    if len(changes) == limit:
                        more = True
                        break
                    first = one.key if first is None else first
                    changes.append(change)
        end: Place = poll.end
        if more:
            end = _last_place(changes)
            if end is None:
                # It came to too many pieces: a client that is always behind begins anew.
                raise PositionError(str(place), "expired")
        start = QueryPlace.at_once(poll.look.now, first)
        return Page(changes, start, end, more, poll.look.epoch)

    def watch_commits(
        self,
        wake: Callable[[], None],
        known: Callable[[], Head | None],
        reach: Callable[[Place], None] | None = None,  # noqa: ARG002 - a commit is of one table
    ) -> CommitWatch:
        """As ``TableReader.watch_commits``, for all tables of the query."""
        watches: list[CommitWatch] = []
        for at, tracking in enumerate(self._tracking.values()):
            if self.engine.dialect.name == "sqlite":
                watches.append(CountersWatch(self._writers, tracking.table, wake, known, at))
            else:
                name = channel(tracking) if tracking.notify else None
                watches.append(
                    watch_channel(
                        self.engine,
                        name,
                        tracking.table,
                        wake,
                        partial(_place_of, known),
                        writers=self._writers,
                    )
                )
        return WatchGroup(watches, self.close)

    async def trim(self, max_age: timedelta, grace: float) -> int:
        """As ``LiveQuery.trim``."""
        cutoff = datetime.now(UTC) - max_age
        runs = [LinkTrim(tracking, cutoff) for tracking in self._tracking.values()]
        expires = False
        for run in runs:
            async with self.writing() as connection:
                expires |= await connection.run_sync(run.announce)
        if expires:
            await asyncio.sleep(grace)
        removed = 0
        for run in runs:
            step = TRIM_STEP
            while step == TRIM_STEP:
                async with self.writing() as connection:
                    step = await connection.run_sync(run.step)
                removed += step
        return removed

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end."""
        async with self.translated(), self.engine.begin() as connection:
            yield connection

    # Connections

    def _look(self, connection: sa.Connection, place: QueryPlace | None) -> Look:
        self._looker.begin(connection)
        return self._looker.look(connection, place)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        async with self.translated():
            if not self._described:
                await ensure_first_connection(self.engine)
            async with self._reading.connect() as connection:
                await self._describe(connection)
                yield connection

    async def connect(self) -> AsyncConnection:
        """A connection for a poll of several batches. The caller closes it."""
        if not self._described:
            await ensure_first_connection(self.engine)
        connection = self._reading.connect()
        await connection.start()
        await self._describe(connection)
        return connection

    async def _describe(self, connection: AsyncConnection) -> None:
        if not self._described and isinstance(self._looker, PostgreSQLLooker):
            server = await describe_server(connection)
            self._looker.control = server.control
            self._described = True
            await connection.rollback()

    @asynccontextmanager
    async def translated(self) -> AsyncIterator[None]:
        """Errors of the database that pass by themselves become SourceUnavailableError."""
        try:
            yield
        except Exception as error:
            said = unavailable(error)
            if said is None:
                raise
            raise SourceUnavailableError(self.name, said) from error

    def poll(self, connection: sa.Connection, place: QueryPlace, chunk: int) -> Poll:
        """Begin a poll for all filters."""
        if self.derivation.limit is not None:
            return FirstRows(self._queries, connection, place, None)
        return Poll(self._queries, connection, place, EVERYTHING, chunk=chunk)

    def _begin(
        self, connection: sa.Connection, place: QueryPlace, wanted: Filter, chunk: int
    ) -> Poll:
        if self.derivation.limit is not None:
            return FirstRows(self._queries, connection, place, wanted)
        return Poll(self._queries, connection, place, wanted, chunk=chunk)

    @property
    def _no_counters(self) -> Counters:
        return Counters((0,) * len(self._tracking))

    def _kind(self, occurrence: Any, name: str) -> type[Any]:
        kind: Any = next(c.type for c in occurrence.table.columns if c.name == name)
        while isinstance(kind, sa.types.TypeDecorator):
            kind = kind.impl_instance
        if isinstance(kind, sa.Integer):
            return int
        if isinstance(self._looker, PostgreSQLLooker):
            if isinstance(kind, sa.DateTime):
                return datetime
            if isinstance(kind, sa.Date):
                return date
        return str


class _OpenPoll:
    """A poll of the tail, with the transaction that it reads in."""

    def __init__(self, reader: QueryReader, place: QueryPlace, chunk: int) -> None:
        self.place = place
        self.done = False
        self.end = place
        self.retiring: QueryPlace | None = None
        self._reader = reader
        self._chunk = chunk
        self._connection: AsyncConnection | None = None
        self._poll: Poll | None = None
        self._affected: Iterator[Sequence[Affected]] = iter(())

    async def read(self, epoch: str) -> Sequence[Affected]:
        async with self._reader.translated():
            if self._connection is None:
                self._connection = await self._reader.connect()
                found = await self._connection.run_sync(self._begin, epoch)
            else:
                found = await self._connection.run_sync(lambda _: next(self._affected, None))
        assert self._poll is not None
        self.done = found is None or self._poll.done
        return found or ()

    def _begin(self, connection: sa.Connection, epoch: str) -> Sequence[Affected] | None:
        poll = self._poll = self._reader.poll(connection, self.place, self._chunk)
        if poll.look.epoch != epoch:
            raise PositionError(str(self.place), "unknown", "the database is another one")
        self.end, self.retiring = poll.end, poll.look.retiring
        self._affected = poll.affected()
        return next(self._affected, None)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            async with self._reader.translated():
                await connection.close()


def _last_place(changes: Sequence[Change]) -> Any:
    return changes[-1].place


def _place_of(known: Callable[[], Head | None]) -> object:
    head = known()
    return None if head is None else head.place


def _own(place: Place) -> QueryPlace:
    if not isinstance(place, QueryPlace):
        raise UsageError(f"{place!r} is not a place in a live query")
    return place


def _fingerprint(derivation: Derivation, engine: AsyncEngine) -> str:
    compiled = derivation.select.compile(dialect=engine.dialect)
    values = sorted((name, repr(value)) for name, value in compiled.params.items())
    said = repr((str(compiled), values, list(derivation.key), list(derivation.filters)))
    return hashlib.blake2s(said.encode(), digest_size=8).hexdigest()
