"""Reads a live query: pages, the tail's batches, and the checks of positions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import DeclarationError, PositionError, UsageError
from headwater.feeds._clock import utc_now
from headwater.feeds._source import Filter, Page, Place
from headwater.sql._faults import COLUMN_MISSING, unavailable
from headwater.sql._judging import NO_QUESTIONS, Questions, stored_columns
from headwater.sql._links import links_drift
from headwater.sql._model import tracking_of
from headwater.sql._reader import ChangeBatch, CommitWatch, Head, Tail, TailReader, WatchGroup
from headwater.sql._schemas import SCHEMAS
from headwater.sql._trim import remove
from headwater.sql._values import stored_type
from headwater.sql.postgresql._connections import ensure_first_connection, life_of
from headwater.sql.postgresql._drivers import check_driver
from headwater.sql.postgresql._looks import CatalogueWatch
from headwater.sql.postgresql._triggers import qualified
from headwater.sql.query._changes import changes_of
from headwater.sql.query._derivation import Derivation, column_of
from headwater.sql.query._first_rows import FirstRows
from headwater.sql.query._look import (
    Look,
    Looker,
    PostgreSQLLooker,
    SQLiteLooker,
    fingerprint_of,
)
from headwater.sql.query._moments import PostgreSQLMoments
from headwater.sql.query._open_poll import OpenPoll, ReadPage, WaitingPage
from headwater.sql.query._pages import Pages
from headwater.sql.query._pieces import Occurrence
from headwater.sql.query._place import QueryPlace
from headwater.sql.query._poll import CHUNK, Poll, Queries
from headwater.sql.query._trim import link_trim
from headwater.sql.query._watch import watch_of
from headwater.sql.sqlite._connections import file_of, guard

# How many pages are read between two batches of the tail. The tail stands still meanwhile.
SERVED = 50
# How many snapshots of the tail are remembered for clients that return.
KEPT_SNAPSHOTS = 4096


class QueryReader(TailReader):
    """One live query over one database.

    Each read is one transaction in one snapshot, and returns its connection at the end. Only if a
    poll of the tail has several batches, the transaction stays open until the last one.
    """

    judged = frozenset()

    def __init__(
        self,
        engine: AsyncEngine,
        derivation: Derivation,
        name: str,
        listen: Sequence[AsyncEngine | sa.Engine] = (),
    ) -> None:
        super().__init__(engine, name, listen)
        self.derivation = derivation
        self._tracking = {table: tracking_of(table) for table in derivation.tables}
        self._reading = engine
        looker: type[Looker]
        if engine.dialect.name == "sqlite":
            if file_of(engine.sync_engine) is None:
                raise DeclarationError(
                    f"{name}: a live query needs a connection of its own, and a database in memory "
                    "has only one connection: use a file"
                )
            guard(engine.sync_engine)
            looker = SQLiteLooker
        elif engine.dialect.name == "postgresql":
            check_driver(engine)
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ")
            looker = PostgreSQLLooker
        else:
            raise DeclarationError(
                f"{name}: a live query on {engine.dialect.name!r} cannot be followed; SQLite and "
                "PostgreSQL can"
            )
        fingerprint = fingerprint_of(derivation, engine.dialect)
        self._looker = looker(name, self._tracking, derivation.links, fingerprint)
        self._queries = Queries(name, derivation, self._looker)
        self._described = engine.dialect.name == "sqlite"
        self._catalogue = CatalogueWatch()
        self._kinds = tuple(self._kind(*column) for column in derivation.key.values())
        self._pages = Pages(self._queries)
        self._open: OpenPoll | None = None
        # `_wake` wakes the tail while it is attached. `_waiting` has the pages that wait for its
        # next transaction: the present one may lack rows that were committed before the request.
        self._wake: Callable[[], None] | None = None
        self._waiting: list[WaitingPage] = []
        self._broken = False
        # The latest snapshots of the tail.
        self._snapshots: dict[str, None] = {}

    def parse(self, text: str) -> QueryPlace:
        sqlite = isinstance(self._looker, SQLiteLooker)
        tables = len(self._tracking) if sqlite else None
        return QueryPlace.parse(text, self._kinds, tables).align(self._snapshots)

    def _note(self, look: Look) -> None:
        """Remember that the tail is at this snapshot."""
        self._snapshots[str(look.now)] = None
        if len(self._snapshots) > KEPT_SNAPSHOTS:
            del self._snapshots[next(iter(self._snapshots))]

    async def head(self) -> Head:
        async with self._connected() as connection:
            look = await connection.run_sync(self._look, None)
        self._note(look)
        return Head(look.epoch, QueryPlace.at_once(look.now))

    async def locate(self, epoch: str, place: QueryPlace) -> None:
        async with self._connected() as connection:
            look = await connection.run_sync(self._look, place)
        if look.epoch != epoch:
            raise PositionError(str(place), "unknown", "it is of another database or query")

    async def try_filter(self, wanted: Filter, /) -> None:
        try:
            await self._alone(lambda look: self._pages.before(look, wanted, 1, None))
        except (sa.exc.DataError, sa.exc.ProgrammingError) as error:
            raise DeclarationError(
                f"the {self.name} cannot be filtered by {wanted.any_of!r}: the database refuses "
                f"it: {error.orig}"
            ) from error

    async def batch(
        self, head: Head, limit: int, questions: Questions = NO_QUESTIONS, /
    ) -> ChangeBatch:
        place = self.own_place(head.place, QueryPlace)
        if self._broken:
            # A page may have been read at a snapshot that the tail did not come to.
            self._broken = False
            raise PositionError(str(place), "expired")
        poll = self._open
        if poll is None or poll.place is not place:
            await self.close()
            begin = partial(self._begin, place, head.epoch, min(limit, CHUNK), questions)
            poll = self._open = OpenPoll(place, self._connected, begin)
            poll.pages, self._waiting = self._waiting[:SERVED], self._waiting[SERVED:]
        try:
            with self.translated():
                found = await poll.read()
            await self._serve(poll)
        except BaseException as error:
            self._broken = poll.served and not poll.done
            await self.close()
            self._waiting = [*poll.pages, *self._waiting]
            if not isinstance(error, PositionError):
                self._answer_all(error)
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
            with self.translated():
                await poll.close()

    async def page(
        self,
        wanted: Filter,
        limit: int,
        *,
        after: Place | None = None,
        before: Place | None = None,
    ) -> Page:
        """As ``Source.page``.

        While the tail is attached, a page is read in a transaction of the tail. So the client and
        the tail are at the same snapshot. A client never has a row that came and went between two
        snapshots of the tail, and of which the tail would never send the removal.
        """
        if limit < 1:
            raise UsageError(f"limit={limit} must be at least 1")
        if after is None:
            below = None if before is None else self.own_place(before, QueryPlace).start
            return await self._read(lambda look: self._pages.before(look, wanted, limit, below))
        place = self.own_place(after, QueryPlace)
        nothing = any(one.seen == self._queries.nothing for one in place.segments)
        if (place.aligned and not nothing) or self._wake is None:
            return await self._read(lambda look: self._pages.after(look, wanted, limit, place))
        # The client may be far behind, and the tail must not wait for such a long read.
        page = await self._alone(lambda look: self._pages.after(look, wanted, limit, place))
        left = limit - len(page.changes)
        if page.has_more or not left:
            return replace(page, has_more=True)
        reached = self.own_place(page.end, QueryPlace)
        rest = await self._read(
            lambda look: self._pages.after(look, wanted, left, reached), patient=True
        )
        return replace(rest, changes=[*page.changes, *rest.changes], start=page.start)

    def links(self) -> Iterator[tuple[sa.Table, Sequence[str], str, str]]:
        """Each table with the links it needs, its registered name, and the call that adds them."""
        for table, links in self.derivation.links.items():
            yield table, links, self._tracking[table].name, self._looker.call(table)

    def nothing(self) -> QueryPlace:
        """The place of a client that has no row."""
        return QueryPlace.at_once(self._queries.nothing)

    async def exceeds(self, wanted: Filter, count: int) -> bool:
        """Whether there are more rows than this."""
        async with self._connected() as connection:
            return await connection.run_sync(self._queries.exceeds, wanted, count)

    async def _read(self, read: ReadPage, *, patient: bool = False) -> Page:
        """Read in the tail's next transaction, or alone if there is no tail.

        While the tail reads a poll of many batches, only a ``patient`` page waits for the next one.
        """
        if self._wake is None or (self._open is not None and self._open.long and not patient):
            return await self._alone(read)
        answer: asyncio.Future[Page | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(WaitingPage(read, answer, patient))
        self._wake()
        page = await answer
        return await self._alone(read) if page is None else page

    async def _alone(self, read: ReadPage) -> Page:
        async with self._connected() as connection:
            page = await connection.run_sync(lambda sync: read(self._look(sync, None)))
        return replace(page, end=replace(self.own_place(page.end, QueryPlace), aligned=False))

    async def _serve(self, poll: OpenPoll) -> None:
        """Read some of the pages that waited for the transaction of a poll."""
        while poll.pages:
            waiting = poll.pages[0]
            if not waiting.answer.done():
                found: Page | Exception
                try:
                    with self.translated():
                        found = await poll.page(waiting.read)
                except Exception as error:
                    # It is this page's own. If the connection is lost, the tail finds out.
                    found = error
                waiting.answer_with(found)
            poll.pages.pop(0)
        if poll.long:
            for waiting in self._waiting:
                if not waiting.patient:
                    waiting.answer_with(None)
            self._waiting = [waiting for waiting in self._waiting if waiting.patient]
        if self._waiting and self._wake is not None:
            self._wake()

    def _answer_all(self, answer: BaseException | None) -> None:
        """Answer all waiting pages with an error. With None they are read without the tail."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.answer_with(answer)

    async def _detached(self) -> None:
        self._wake = None
        self._answer_all(None)
        await self._catalogue.stop()
        await self.close()

    def watch_commits(self, tail: Tail, /) -> CommitWatch:
        self._wake = tail.read_on
        tables = list(self._tracking.values())
        if isinstance(self._looker, PostgreSQLLooker):
            self._catalogue.follow(self.engine, [qualified(each) for each in tables], tail.read_on)
        changed = self._catalogue.soon
        watches = [
            watch_of(self.engine, self._writers, each, tail, at, changed)
            for at, each in enumerate(tables)
        ]
        return WatchGroup(*(watch.stop for watch in watches), self._detached)

    async def trim(self, max_age: timedelta, grace: float) -> int:
        """As ``LiveQuery.trim``."""
        cutoff, dialect = utc_now() - max_age, self.engine.dialect
        runs = [link_trim(tracking, cutoff, dialect) for tracking in self._tracking.values()]
        return await remove(runs, self.writing, grace)

    # Connections

    def _look(self, connection: sa.Connection, place: QueryPlace | None) -> Look:
        self._looker.begin(connection)
        return self._looker.look(connection, place)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        with self.translated():
            if not self._described:
                await ensure_first_connection(self.engine)
            async with self._reading.connect() as connection:
                await self._describe(connection)
                yield connection

    async def _describe(self, connection: AsyncConnection) -> None:
        if self._catalogue.is_due():
            await self._compare(connection)
        if not self._described and isinstance(self._looker, PostgreSQLLooker):
            self._looker.life = await life_of(connection)
            self._described = True
            await connection.rollback()

    async def _compare(self, connection: AsyncConnection) -> None:
        """Compare the tables with what their tracking should be.

        Raises SourceUnavailableError with what mends it.
        """
        for table, tracking in self._tracking.items():
            try:
                schema = SCHEMAS[connection.dialect.name]
                found, wrong = await connection.run_sync(schema.drift, tracking, ())
                wrong = wrong or await connection.run_sync(links_drift, found)
            except DeclarationError as error:
                wrong = [str(error)]
            if wrong:
                said = f"table {tracking.full_name}: {'; '.join(wrong)}. {tracking.call} mends it"
                raise self.broken(said)
            moments = self._looker.moments
            if isinstance(moments, PostgreSQLMoments):
                rows = await stored_columns(connection, table)
                types = {row[0]: str(row[3]) for row in rows}
                if types != moments.types.get(tracking.name):
                    moments.types[tracking.name] = types
                    self._queries.renew_statements()
        # The read takes a snapshot of its own.
        await connection.rollback()
        self._catalogue.note()

    def _unavailable(self, error: Exception) -> str | None:
        said = unavailable(error)
        # SQLite's way to say so. The statements follow from the models alone.
        missing = said is None and "no such column" in str(error)
        return COLUMN_MISSING if missing else said

    def _begin(
        self,
        place: QueryPlace,
        epoch: str,
        chunk: int,
        questions: Questions,
        connection: sa.Connection,
    ) -> Poll:
        """Begin a poll for all filters."""
        poll: Poll
        if self.derivation.limit is not None:
            poll = FirstRows(self._queries, connection, place, None)
        else:
            poll = Poll(self._queries, connection, place, chunk=chunk, questions=questions)
        if poll.look.epoch != epoch:
            raise PositionError(str(place), "unknown", "the database is another one")
        self._note(poll.look)
        return poll

    def _kind(self, occurrence: Occurrence, name: str) -> type[Any]:
        kind = stored_type(column_of(occurrence.table, name).type)
        if isinstance(kind, sa.Integer):
            return int
        if isinstance(self._looker, PostgreSQLLooker):
            if isinstance(kind, sa.DateTime):
                return datetime
            if isinstance(kind, sa.Date):
                return date
        return str
