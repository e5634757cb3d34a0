"""A connection of its own for small reads that come often.

aiosqlite runs a connection in a thread. A read through SQLAlchemy's pool goes there and back four
times, for a cursor, the statement, its rows and the rollback before the connection is given back;
here it goes once. The connection is made by the engine, with all that is set for it, and taken out
of the pool.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.feeds.shared_calls import CoalescedCall
from headwater.sql.sqlite.connections import identity_of
from headwater.sql.sqlite.watch import file_of

__all__ = ["Direct"]

# Seconds.
_LONG = 0.05

Row = Sequence[Any]
Convert = Callable[[Any], Any]


class Direct:
    """Reads of one database file, one after another. Each statement is a snapshot of its own.

    They raise what the engine would, SQLAlchemy's DBAPIError among it.

    Arguments:
        engine: of a database in a file, on aiosqlite.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        path = file_of(engine.sync_engine)
        assert path is not None, "a database in memory is in its engine's connections alone"
        self._engine = engine
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._held: AsyncConnection | None = None
        self._driver: Any = None
        self._opening = asyncio.Lock()
        self._reads: dict[object, float] = {}
        self._closed = False
        # One for each opened connection, and for no other.
        self._opened = object()
        self._versions = CoalescedCall(self._look)
        self._prepared: WeakKeyDictionary[Any, _Prepared] = WeakKeyDictionary()

    @property
    def busy(self) -> bool:
        """Whether a read takes so long that others should go elsewhere, or it was closed."""
        for began in self._reads.values():
            return asyncio.get_running_loop().time() - began > _LONG
        return self._closed

    async def read(
        self, query: sa.Select[*tuple[Any, ...]], values: Mapping[str, Any]
    ) -> Sequence[Row]:
        """The rows of a statement, with these values of its parameters; none of them expands."""
        prepared = self._prepared.get(query)
        if prepared is None:
            prepared = self._prepared[query] = _Prepared(query, self._engine.dialect)
        return prepared.converted(await self.rows(prepared.text, prepared.parameters(values)))

    async def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        """The rows of a statement in SQLite's own words, as the driver has them."""
        token = object()
        self._reads[token] = asyncio.get_running_loop().time()
        driver = None
        try:
            driver = self._driver
            if driver is None or identity_of(self._path) != self._identity:
                driver = await self._open()
            found: Sequence[Row] = await driver.execute_fetchall(statement, parameters)
        except (sqlite3.Error, ValueError) as error:
            # ValueError is the driver's word for a connection that was closed.
            if self._driver is driver:
                await self._drop()
            if isinstance(error, ValueError):
                error = sqlite3.ProgrammingError("connection closed")
            raise sa.exc.DBAPIError.instance(
                statement, None, error, sqlite3.Error, dialect=self._engine.dialect
            ) from error
        finally:
            del self._reads[token]
        return found

    async def version(self) -> tuple[object, int]:
        """Equal for as long as nobody commits anything to the file.

        Many that ask at once are answered together, by a look that began after they asked.
        """
        return await self._versions.ask()

    async def _look(self) -> tuple[object, int]:
        before = self._opened
        (row,) = await self.rows("PRAGMA data_version")
        # Each connection counts on its own; which one this is of is not known if there was another.
        return (before if self._opened is before else object()), row[0]

    async def close(self) -> None:
        """Give up the connection for good. Idempotent."""
        self._closed = True
        async with self._opening:
            await self._drop()

    async def _drop(self) -> None:
        held, self._held, self._driver = self._held, None, None
        if held is not None:
            with suppress(Exception):
                await held.close()

    async def _open(self) -> Any:
        async with self._opening:
            # Asked before it is opened: one that is replaced in between is opened again.
            identity = identity_of(self._path)
            if self._closed:
                raise sqlite3.ProgrammingError("connection closed")
            if identity is None:
                # A connection of the pool may still have the file that was moved away.
                raise sqlite3.OperationalError("unable to open database file")
            if self._driver is None or identity != self._identity:
                await self._drop()
                held = await self._engine.connect()
                raw = await held.get_raw_connection()
                driver = raw.driver_connection  # a detached one does not tell any more
                raw.detach()
                self._held, self._identity, self._driver = held, identity, driver
                self._opened = object()
            return self._driver


class _Prepared:
    """A statement as the driver takes it."""

    def __init__(self, query: sa.Select[*tuple[Any, ...]], dialect: sa.Dialect) -> None:
        compiled: Any = query.compile(dialect=dialect)
        self.text: str = compiled.string
        self._compiled = compiled
        self._binds: dict[str, Convert] = {}
        for name, parameter in compiled.binds.items():
            convert = parameter.type.dialect_impl(dialect).bind_processor(dialect)
            if convert is not None:
                self._binds[name] = convert
        self._results: list[tuple[int, Convert]] = []
        for at, column in enumerate(query.selected_columns):
            convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
            if convert is not None:
                self._results.append((at, convert))

    def parameters(self, values: Mapping[str, Any]) -> Sequence[Any]:
        found = self._compiled.construct_params(values)
        for name, convert in self._binds.items():
            found[name] = convert(found[name])
        return [found[name] for name in self._compiled.positiontup]

    def converted(self, rows: Sequence[Row]) -> Sequence[Row]:
        if not self._results or not rows:
            return rows
        columns: list[Any] = list(zip(*rows, strict=True))
        for at, convert in self._results:
            columns[at] = map(convert, columns[at])
        return list(zip(*columns, strict=True))
