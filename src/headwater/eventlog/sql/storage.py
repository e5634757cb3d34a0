"""The database under an event log: connections, tables that are missing, errors of the driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog.sql.dialect import Dialect

__all__ = ["Storage"]

T = TypeVar("T")

# Seconds to wait for other processes that open a new file at the same time.
PATIENCE = 5.0


class _NotThereError(Exception):
    """The log's tables, or its one row, do not exist (any more)."""


class _StaleError(Exception):
    """The connection was lost before anything was committed; the cause says how."""


@contextmanager
def _uncommitted() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _StaleError from error
        raise


class Storage:
    """One database. What the driver raises comes out as SourceUnavailableError.

    Attributes:
        engine: the database.
        dialect: its statements and errors.
        name: for error messages; holds no address, which might hold a password.
        closed: further use raises UsageError.
        opened: called each time the tables were found or made.
    """

    def __init__(self, engine: AsyncEngine, dialect: Dialect) -> None:
        self.engine = engine
        self.dialect = dialect
        self.name = dialect.name
        self.closed = False
        self.opened: Callable[[], None] | None = None
        self._ready = False
        self._creating = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()

    async def ready(self) -> None:
        """Create what is missing. Needs no right to write if nothing is."""
        if self.closed:
            raise UsageError(f"{self.name} is closed")
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
                    late = asyncio.get_running_loop().time() > deadline
                    if late or not self.dialect.busy(error.__cause__):
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
        if self.opened is not None:
            self.opened()

    async def read(
        self, statement: sa.TextClause, values: Mapping[str, Any]
    ) -> Sequence[sa.Row[Any]]:
        """All rows of one statement, at least one: each reading statement starts at the log's row.

        No connection is held afterwards.
        """

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
        """Run ``work`` in a transaction of its own; once this returns it is committed."""

        async def once() -> T:
            async with self.engine.begin() as connection:
                with _uncommitted():
                    return await work(connection)

        return await self._attempt(once, "; whether it was done is not known")

    async def join(
        self, connection: AsyncConnection, work: Callable[[AsyncConnection], Awaitable[T]]
    ) -> T:
        """Run ``work`` in the caller's transaction, which only the caller ends."""
        await self.ready()
        with self._translated():
            return await work(connection)

    async def close(self) -> None:
        """Wait for what runs, but no longer than the dialect's patience."""
        self.closed = True
        if self._running:
            await asyncio.wait(self._running, timeout=self.dialect.patience)

    async def _attempt(self, once: Callable[[], Awaitable[T]], doubt: str = "") -> T:
        """Run in a task of its own, which a caller that is cancelled leaves alone.

        A connection whose statement is cancelled half-way is lost, and so is the answer of a
        commit. For the same reason it goes on when its caller gives up waiting.
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
            task.exception()  # the caller has it, if there still is one

    async def _twice(self, once: Callable[[], Awaitable[T]]) -> T:
        """Try once more in two cases.

        The tables are gone: a database that was wiped begins anew. Or the pool's connection was
        lost while it was idle: another one may do.
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
        if cause is not None:
            with self._translated():
                raise cause
        raise SourceUnavailableError(self.name, "its tables are not there")

    def forget(self) -> None:
        """The storage may be another one: look for the tables before the next use."""
        self._ready = False

    @contextmanager
    def _absence(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if self.dialect.absent(error):
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
