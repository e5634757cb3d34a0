"""The database of an event log: its connections, the creation of its tables, its errors.

A ``Dialect`` has what differs between SQLite and PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import SourceUnavailableError, UsageError
from headwater.sql._faults import unavailable

Row = Mapping[str, Any]

_BEGIN_LIFE = sa.text(
    "INSERT INTO headwater_log (id, epoch, trims) VALUES (1, :epoch, 0) ON CONFLICT (id) DO NOTHING"
)
# Of topics that another program set back, as by restoring their table alone.
_RAISE_LATEST = sa.text(
    "UPDATE headwater_topics SET latest = (SELECT max(e.number) FROM headwater_events AS e"
    " WHERE e.topic_id = headwater_topics.id) WHERE latest < (SELECT max(e.number)"
    " FROM headwater_events AS e WHERE e.topic_id = headwater_topics.id)"
)


class Dialect(ABC):
    """One database's statements and errors.

    Attributes:
        name: for error messages. It has no address, which could contain a password.
        reading: execution options of statements that only read.
        writing: execution options of transactions that write, once the server has refused one
            (40001) because its default isolation is too strict. They cost time each time.
        patience: seconds until a caller gets an error because there is no answer. None for a
            database without a server.
        bounds: of one ``:topic``: epoch, latest, trimmed. Each statement that reads starts at the
            log's own row, so it returns at least one row.
        after: the records of ``:topic`` after ``:number``, at most ``:rows``, beside its bounds.
        before: those below ``:number``, newest first.
        states: epoch, trims, head, and of each existing topic its name, ``END`` and place.
            ``:places`` is a JSON list of names and numbers; what stands there is ``place_at`` and
            ``place_size``.
        lock_free: locks the row of ``:topic`` for trimming, and gives its id, latest and trimmed,
            unless another transaction holds it.
        reserving: for ``reserve``; ``:topics`` is a JSON list of names and counts.
        finding_keys: the events with ``:keys``, a JSON list of topics and keys: the topic's name,
            number, at, size, key and data.
        clearing: removes the events of topics ``:ids``, a JSON list.
        healing: raises counters that were set back, so that no number or id is given out twice.
    """

    name: str
    reading: Mapping[str, Any] = {}
    writing: Mapping[str, Any] = {}
    patience: float | None = None
    bounds: sa.TextClause
    after: sa.TextClause
    before: sa.TextClause
    states: sa.TextClause
    lock_free: sa.TextClause
    reserving: sa.TextClause
    finding_keys: sa.TextClause
    clearing: sa.TextClause
    healing: Sequence[sa.TextClause] = (_RAISE_LATEST,)

    def unavailable(self, error: BaseException) -> str | None:
        """One sentence if the error will pass by itself; None if it is a fault of the program."""
        return unavailable(error)

    @abstractmethod
    async def exists(self, connection: AsyncConnection) -> bool:
        """Whether the log has its row. Raises the driver's error if its tables do not exist."""

    async def create(self, connection: AsyncConnection) -> None:
        """Create what is missing. The caller commits."""
        await self.create_tables(connection)
        # Letters and digits only, as a position carries it.
        await connection.execute(_BEGIN_LIFE, {"epoch": secrets.token_hex(16)})

    async def reserve(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        """Lock topics, create those that are new, and reserve this many numbers of each.

        Returns each topic's id, name and latest, its new highest number.
        """
        # Sorted: two transactions that lock several topics do it in one order.
        topics = json.dumps(sorted(counts.items()))
        rows = (await connection.execute(self.reserving, {"topics": topics})).all()
        return {row.name: row for row in rows}

    def heads(
        self, topics: Mapping[str, sa.Row[Any]], counts: Mapping[str, int]
    ) -> Mapping[object, tuple[int, int]]:
        """Numbers that only rise, each before and after the reservation that gave ``topics``."""
        return {row.id: (row.latest - counts[topic], row.latest) for topic, row in topics.items()}

    @abstractmethod
    async def create_tables(self, connection: AsyncConnection) -> None:
        """Create the tables and indexes that are missing."""

    @abstractmethod
    async def insert(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        """Insert events, at least one: topic_id, number, at, size, key, part, data."""


T = TypeVar("T")

# Seconds to wait for other processes that open a new file at the same time.
PATIENCE = 5.0


class _NotThereError(Exception):
    """The log's tables, or its one row, do not exist (any more)."""


class _StrictError(Exception):
    """The server rolled back, because its default isolation is too strict. See the cause."""


class _TakenError(Exception):
    """A number that was given out is already in use. See the cause."""


class _StaleError(Exception):
    """The connection was lost before anything was committed. See the cause."""


@contextmanager
def _uncommitted() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _StaleError from error
        raise


class Storage:
    """One database. It raises SourceUnavailableError for errors of the driver that will pass.

    Attributes:
        engine: the database.
        dialect: its statements and errors.
        name: for error messages. It has no address, which could contain a password.
        closed: further use raises UsageError.
        opened: called each time the tables were found or created.
        openings: how often that happened.
    """

    def __init__(self, engine: AsyncEngine, dialect: Dialect) -> None:
        self.engine = engine
        self._writing = engine
        self.dialect = dialect
        self.name = dialect.name
        self.closed = False
        self.opened: Callable[[], None] | None = None
        self.openings = 0
        self._ready = False
        self._creating = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()

    async def ready(self) -> None:
        """Create what is missing. If nothing is, this needs no permission to write."""
        if not self._ready:
            # ``_twice`` prepares; there is nothing else to do.
            await self._attempt(partial(asyncio.sleep, 0))

    async def _prepare(self) -> None:
        if self.closed:
            raise UsageError(f"{self.name} is closed")
        if self._ready:
            return
        async with self._creating:
            deadline = asyncio.get_running_loop().time() + PATIENCE
            while not self._ready:
                try:
                    with self._translated():
                        await self._open()
                except SourceUnavailableError as error:
                    # A process that switches a new file to WAL locks out the others, and SQLite
                    # does not let them wait.
                    busy = self.dialect.patience is None and "locked" in str(error.__cause__)
                    if not busy or asyncio.get_running_loop().time() > deadline:
                        raise
                    await asyncio.sleep(0.02)

    async def _open(self) -> None:
        with suppress(_NotThereError), self._absence():
            async with self.engine.connect() as connection:
                self._ready = await self.dialect.exists(connection)
        if not self._ready:
            async with self.engine.begin() as connection:
                await self.dialect.create(connection)
            self._ready = True
        self.openings += 1
        if self.opened is not None:
            self.opened()

    async def read(
        self, statement: sa.TextClause, values: Mapping[str, Any]
    ) -> Sequence[sa.Row[Any]]:
        """All rows of one statement, at least one. No connection is held afterwards."""

        async def once() -> Sequence[sa.Row[Any]]:
            async with self.engine.connect() as connection:
                if self.dialect.reading:
                    await connection.execution_options(**self.dialect.reading)
                with _uncommitted():
                    rows = (await connection.execute(statement, values)).all()
            if not rows:
                raise _NotThereError
            return rows

        return await self._attempt(once)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction of its own, and commit that."""

        async def once() -> T:
            try:
                async with self._writing.begin() as connection:
                    with _uncommitted():
                        return await work(connection)
            except IntegrityError as error:
                raise _TakenError from error
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) == "40001" and self.dialect.writing:
                    raise _StrictError from error
                raise

        return await self._attempt(once, "; whether it was done is not known")

    async def join(
        self, connection: AsyncConnection, work: Callable[[AsyncConnection], Awaitable[T]]
    ) -> T:
        """Run ``work`` in the caller's transaction, which only the caller ends."""
        await self.ready()
        with self._translated():
            return await work(connection)

    async def close(self) -> None:
        """Wait for the calls that run, but no longer than the dialect's patience."""
        self.closed = True
        if self._running:
            await asyncio.wait(self._running, timeout=self.dialect.patience)

    async def _attempt(self, once: Callable[[], Awaitable[T]], doubt: str = "") -> T:
        """Run in a task of its own, which goes on if the caller is cancelled or gives up.

        To cancel a statement costs its connection, and the answer of a commit would be lost.
        """
        task = asyncio.ensure_future(self._twice(once))
        self._running.add(task)
        task.add_done_callback(self._finished)
        await asyncio.wait({task}, timeout=self.dialect.patience)
        if not task.done():
            raise SourceUnavailableError(
                self.name, f"no answer within {self.dialect.patience:g} s{doubt}"
            )
        return task.result()

    def _finished(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the caller gets it too, if it still waits

    async def _twice(self, once: Callable[[], Awaitable[T]]) -> T:
        """Try once more in four cases.

        The tables are gone: a wiped database begins anew. The pool's connection was lost while it
        was idle: another one may work. The default isolation is too strict for the log. Or another
        program set the counters of topics back.
        """
        cause: BaseException | None = None
        for _ in range(2):
            await self._prepare()
            try:
                with self._translated(), self._absence():
                    return await once()
            except _NotThereError:
                self._ready, cause = False, None
            except _StaleError as error:
                cause = error.__cause__
            except _StrictError as error:
                self._writing = self.engine.execution_options(**self.dialect.writing)
                cause = error.__cause__
            except _TakenError as error:
                cause = error.__cause__
                with self._translated():
                    async with self._writing.begin() as connection:
                        for statement in self.dialect.healing:
                            await connection.execute(statement)
        if cause is not None:
            with self._translated():
                raise cause
        raise SourceUnavailableError(self.name, "its tables are not there")

    def forget(self) -> None:
        """Look for the tables before the next use, because the storage may be another one."""
        self._ready = False

    @contextmanager
    def _absence(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == "42P01" or "no such table" in str(error.orig):
                raise _NotThereError from error
            raise

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = self.dialect.unavailable(error)
            if said is None:
                raise
            raise SourceUnavailableError(self.name, said) from error
