"""The database under an event log: connections, tables that are missing, errors of the driver."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog.sql_tables import METADATA
from headwater.sql.sqlite.faults import unavailable

__all__ = ["Storage"]

T = TypeVar("T")

# Seconds to wait for other processes that open a new file at the same time.
PATIENCE = 5.0

_EPOCH = sa.text("SELECT epoch FROM headwater_log WHERE id = 1")
_BEGIN_LIFE = sa.text(
    "INSERT INTO headwater_log (id, epoch, trims) VALUES (1, :epoch, 0) ON CONFLICT (id) DO NOTHING"
)


class _NotThereError(Exception):
    """The log's tables, or its one row, do not exist (any more)."""


@contextmanager
def _absence() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if "no such table" in str(error.orig):
            raise _NotThereError from error
        raise


class Storage:
    """One database. What the driver raises comes out as SourceUnavailableError.

    Attributes:
        engine: the database.
        name: for error messages; holds no address, which might hold a password.
        closed: further use raises UsageError.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        if engine.dialect.name != "sqlite":
            raise UsageError(
                f"event log on {engine.dialect.name}: of the SQL engines this version has SQLite"
            )
        self.engine = engine
        self.name = "event log (sqlite)"
        self.closed = False
        self._ready = False
        self._creating = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()

    async def ready(self) -> None:
        """Create what is missing. Asks for no right to write if nothing is."""
        if self.closed:
            raise UsageError(f"{self.name} is closed")
        if not self._ready:
            await self._attempt(self._nothing)

    async def _nothing(self) -> None:
        """``_twice`` has prepared all before it comes here."""

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
                    # Who switches a new file to its write-ahead log locks out the others, and
                    # SQLite does not let them wait for it.
                    late = asyncio.get_running_loop().time() > deadline
                    if late or "locked" not in str(error.__cause__):
                        raise
                    await asyncio.sleep(0.02)

    async def _open(self) -> None:
        with suppress(_NotThereError), _absence():
            async with self.engine.connect() as connection:
                row = (await connection.execute(_EPOCH)).first()
            self._ready = row is not None
        if not self._ready:
            await self._create()
            self._ready = True

    async def _create(self) -> None:
        async with self.engine.begin() as connection:
            for table in METADATA.sorted_tables:
                await connection.execute(CreateTable(table, if_not_exists=True))
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    await connection.execute(CreateIndex(index, if_not_exists=True))
            # Letters and digits only, as a position carries it.
            await connection.execute(_BEGIN_LIFE, {"epoch": secrets.token_hex(16)})

    async def read(
        self, statement: sa.TextClause, values: Mapping[str, Any]
    ) -> Sequence[sa.Row[Any]]:
        """All rows of one statement, at least one: each reading statement starts at the log's row.

        No connection is held afterwards.
        """

        async def once() -> Sequence[sa.Row[Any]]:
            async with self.engine.connect() as connection:
                rows = (await connection.execute(statement, values)).all()
            if not rows:
                raise _NotThereError
            return rows

        return await self._attempt(once)

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run ``work`` in a transaction of its own; once this returns it is committed."""

        async def once() -> T:
            async with self.engine.begin() as connection:
                return await work(connection)

        return await self._attempt(once)

    async def join(
        self, connection: AsyncConnection, work: Callable[[AsyncConnection], Awaitable[T]]
    ) -> T:
        """Run ``work`` in the caller's transaction; it is the caller's also when cancelled."""
        await self.ready()
        with self._translated():
            return await work(connection)

    async def close(self) -> None:
        """Let what runs come to its end."""
        self.closed = True
        if self._running:
            await asyncio.wait(self._running)

    async def _attempt(self, once: Callable[[], Awaitable[T]]) -> T:
        """Run in a task of its own, which a caller that is cancelled leaves alone.

        A connection whose statement is cancelled half-way is lost, and so is the answer of a
        commit.
        """
        task = asyncio.ensure_future(self._twice(once))
        self._running.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Future[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # told to the caller, if there still is one

    async def _twice(self, once: Callable[[], Awaitable[T]]) -> T:
        """Once more if the tables have gone meanwhile: a database that was wiped begins anew."""
        for _ in range(2):
            await self._prepare()
            with self._translated():
                try:
                    with _absence():
                        return await once()
                except _NotThereError:
                    self._ready = False
        raise SourceUnavailableError(self.name, "its tables are not there")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            said = unavailable(error)
            if said is None:
                raise
            raise SourceUnavailableError(self.name, said) from error
