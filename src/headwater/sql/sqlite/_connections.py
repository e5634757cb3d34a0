"""Connections to SQLite: engines for several writers and long streams, and one for fast reads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from headwater.errors import DeclarationError
from headwater.feeds._shared_calls import CoalescedCall
from headwater.sql._commits import writes

E = TypeVar("E", AsyncEngine, sa.Engine)
Row = Sequence[Any]
Convert = Callable[[Any], Any]

_IDENTITY = "headwater_file"
# Seconds after which a read counts as slow.
_SLOW = 0.05
# Statements outside of a transaction, or that end one.
_BARE = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "RELEASE", "VACUUM", "ATTACH", "DETACH"})


def sqlite_engine(url: str | sa.URL, **options: Any) -> AsyncEngine:
    """An engine on aiosqlite, configured as ``configure_sqlite`` says.

    It enforces foreign keys, and is ``synchronous="NORMAL"``.

    Arguments:
        url: ``sqlite:///path`` or with ``+aiosqlite``.
        options: passed to SQLAlchemy's ``create_async_engine``.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise DeclarationError(f"{parsed.render_as_string()!r} is not the URL of a SQLite database")
    engine = create_async_engine(parsed.set(drivername="sqlite+aiosqlite"), **options)
    return configure_sqlite(engine, synchronous="NORMAL", foreign_keys=True)


def configure_sqlite(
    engine: E,
    *,
    busy_timeout: float = 5.0,
    synchronous: str | None = None,
    foreign_keys: bool = False,
) -> E:
    """Set up an engine's connections, before the first one is made. Returns the engine.

    - Write-ahead log, so that readers and the writer do not wait for each other; a writer waits up
      to ``busy_timeout`` seconds for another.
    - A transaction takes the write lock with its first writing statement (``BEGIN IMMEDIATE``), so
      that it never fails half-way because another one wrote. Reads before that see what is
      committed at that moment, as with READ COMMITTED elsewhere. DDL is part of it.
    - ``synchronous="NORMAL"``: a crash of the process loses nothing; one of the machine may lose
      the last commits, and their change numbers are then used again. ``"FULL"``, which is SQLite's
      own default, rules that out. None leaves it as it is.
    - ``foreign_keys=True`` enforces them, which SQLite does not do by itself. An application that
      was written without it may then fail.
    - A connection to a file that was moved away or replaced is not used again, and a database that
      was there is never created anew, empty, because its file is away for a moment.
    """
    if synchronous not in (None, "NORMAL", "FULL", "EXTRA", "OFF"):
        raise DeclarationError(f"synchronous={synchronous!r} must be NORMAL, FULL, EXTRA or OFF")
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    path = file_of(sync)
    opening = None if path is None else _Opening(path)

    pragmas = [f"busy_timeout = {round(busy_timeout * 1000)}", "journal_mode = WAL"]
    if synchronous is not None:
        pragmas.append(f"synchronous = {synchronous}")
    if foreign_keys:
        pragmas.append("foreign_keys = ON")

    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        try:
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # the pool would forget it and its thread
            raise
        if opening is not None:
            opening.existed = True

    event.listen(sync, "connect", connect)
    event.listen(sync, "before_cursor_execute", _begin)
    if opening is not None:
        event.listen(sync, "do_connect", opening)
    guard(sync, strict=True)
    return engine


def _begin(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
    if not writes(statement) or statement.split(None, 1)[0].upper().rstrip(";") in _BARE:
        return
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return
    driver = connection.connection.driver_connection
    if driver is not None and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class _Opening:
    """Never creates anew, empty, a database that was there before."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.existed = False

    def __call__(self, _dialect: Any, _record: Any, arguments: list[Any], options: Any) -> None:
        there = identity_of(self._path) is not None
        self.existed = self.existed or there
        if not self.existed or options.get("uri"):
            return  # the first connection creates it
        if not there:
            # SQLite's own error, without starting a thread for it.
            raise sqlite3.OperationalError("unable to open database file")
        arguments[0] = f"{Path(self._path).as_uri()}?mode=rw"
        options["uri"] = True


_guarded: WeakSet[sa.Engine] = WeakSet()


def guard(engine: sa.Engine, *, strict: bool = False) -> None:
    """Keep an engine from using connections to a file that was replaced. Once per engine.

    ``strict``: nor to a file that was moved away. Only for engines that create no file anew.
    """
    path = file_of(engine)
    if path is None or engine in _guarded:
        return
    _guarded.add(engine)

    def connect(_connection: Any, record: Any) -> None:
        record.info[_IDENTITY] = identity_of(path)

    def checkout(_connection: Any, record: Any, _proxy: Any) -> None:
        now = identity_of(path)
        if (strict or now is not None) and now != record.info.get(_IDENTITY, now):
            raise sa.exc.DisconnectionError(f"{path} was moved away or replaced")

    event.listen(engine, "connect", connect)
    event.listen(engine, "checkout", checkout)


def path_of(url: str) -> Path:
    """The file that ``sqlite:///path`` names. Raises DeclarationError."""
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or not path or path.startswith(":memory:") or parts.query:
        raise DeclarationError(
            "a database in SQLite is given as sqlite:///path, or sqlite:////path for an absolute "
            "path, without options; one in memory cannot be shared"
        )
    return Path(path)


def file_of(engine: sa.Engine) -> str | None:
    """The absolute path of an engine's database file; None for one in memory."""
    name = engine.url.database or ""
    query = engine.url.query
    if name.startswith("file:"):
        name = name.removeprefix("file:").partition("?")[0]
        if name.startswith("//"):
            name = "/" + name[2:].partition("/")[2]
    if name in ("", ":memory:") or query.get("mode") == "memory" or query.get("vfs") == "memdb":
        return None
    return os.path.abspath(name)  # noqa: PTH100 - resolve() would follow links and touch the disk


def identity_of(path: str) -> tuple[int, int] | None:
    """Device and inode of the file at a path, which another file there does not share.

    None while there is no file.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - runs before each read
    except OSError:
        return None
    return status.st_dev, status.st_ino


class ReadConnection:
    """A connection of its own for small, frequent reads of one database file.

    aiosqlite runs each connection in a thread. A read through SQLAlchemy's pool goes there and back
    four times: for a cursor, the statement, its rows and the rollback. A read here goes once. The
    engine opens the connection with all its settings, and it is taken out of the pool. Each
    statement is a snapshot of its own. Errors are those of the engine, such as DBAPIError.

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
        # A new object for each opened connection.
        self._opened = object()
        self._versions = CoalescedCall(self._read_version)
        self._prepared: WeakKeyDictionary[Any, _Prepared] = WeakKeyDictionary()

    @property
    def busy(self) -> bool:
        """Whether a read is taking long, so that others should use the pool, or it was closed."""
        for began in self._reads.values():
            return asyncio.get_running_loop().time() - began > _SLOW
        return self._closed

    async def read(
        self, query: sa.Select[*tuple[Any, ...]], values: Mapping[str, Any]
    ) -> Sequence[Row]:
        """The rows of a statement with these parameters. None of them may expand to several."""
        prepared = self._prepared.get(query)
        if prepared is None:
            prepared = self._prepared[query] = _Prepared(query, self._engine.dialect)
        return prepared.converted(await self.rows(prepared.text, prepared.parameters(values)))

    async def rows(self, statement: str, parameters: Sequence[Any] = ()) -> Sequence[Row]:
        """The rows of a statement in SQLite's SQL, as the driver returns them."""
        token = object()
        self._reads[token] = asyncio.get_running_loop().time()
        driver = None
        try:
            driver = self._driver
            if driver is None or identity_of(self._path) != self._identity:
                driver = await self._open()
            found: Sequence[Row] = await driver.execute_fetchall(statement, parameters)
        except (sqlite3.Error, ValueError) as error:
            # aiosqlite raises ValueError for a connection that was closed.
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
        """A value that stays equal until somebody commits to the file.

        One statement, which begins after the call, answers all calls of one moment.
        """
        return await self._versions.ask()

    async def _read_version(self) -> tuple[object, int]:
        before = self._opened
        (row,) = await self.rows("PRAGMA data_version")
        # Each connection counts on its own. If it was opened anew, the count may be of either.
        return (before if self._opened is before else object()), row[0]

    async def close(self) -> None:
        """Close the connection for good. Idempotent."""
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
            # Read before opening: a file that is replaced in between is then opened again.
            identity = identity_of(self._path)
            if self._closed:
                raise sqlite3.ProgrammingError("connection closed")
            if identity is None:
                # A connection of the pool may still hold the file that was moved away.
                raise sqlite3.OperationalError("unable to open database file")
            if self._driver is None or identity != self._identity:
                await self._drop()
                held = await self._engine.connect()
                raw = await held.get_raw_connection()
                driver = raw.driver_connection  # read first: a detached connection hides it
                raw.detach()
                self._held, self._identity, self._driver = held, identity, driver
                self._opened = object()
            return self._driver


class _Prepared:
    """A statement in the form that the driver takes."""

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
