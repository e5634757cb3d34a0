"""Connections to SQLite that several writers and long streams can live with."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from headwater.errors import DeclarationError
from headwater.sql.commits import writes
from headwater.sql.sqlite.watch import file_of

__all__ = ["configure_sqlite", "guard", "identity_of", "sqlite_engine"]

E = TypeVar("E", AsyncEngine, sa.Engine)

_IDENTITY = "headwater_file"
# Outside of a transaction, or ending one.
_BARE = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "RELEASE", "VACUUM", "ATTACH", "DETACH"})


def sqlite_engine(url: str | sa.URL, **options: Any) -> AsyncEngine:
    """An engine on aiosqlite, configured as ``configure_sqlite`` says.

    Arguments:
        url: ``sqlite:///path`` or with ``+aiosqlite``.
        options: handed on to SQLAlchemy's ``create_async_engine``.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise DeclarationError(f"{parsed.render_as_string()!r} is not the URL of a SQLite database")
    return configure_sqlite(
        create_async_engine(parsed.set(drivername="sqlite+aiosqlite"), **options)
    )


def configure_sqlite(engine: E, *, busy_timeout: float = 5.0, synchronous: str = "NORMAL") -> E:
    """Set up an engine's connections, before the first one is made. Returns the engine.

    - Write-ahead log, so that readers and the writer do not wait for each other; foreign keys are
      enforced; a writer waits up to ``busy_timeout`` seconds for another.
    - A transaction takes the write lock with its first writing statement (``BEGIN IMMEDIATE``), so
      that it never fails half-way because another one wrote. Reads before that see what is
      committed at that moment, as with READ COMMITTED elsewhere. DDL is part of it.
    - ``synchronous="NORMAL"``: a crash of the process loses nothing; one of the machine may lose
      the last commits, and their change numbers are then used again. ``"FULL"`` rules that out.
    - A connection to a file that was moved away or replaced is not used again, and a database that
      was there is never created anew, empty, because its file is away for a moment.
    """
    if synchronous not in ("NORMAL", "FULL", "EXTRA", "OFF"):
        raise DeclarationError(f"synchronous={synchronous!r} must be NORMAL, FULL, EXTRA or OFF")
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    path = file_of(sync)
    opening = None if path is None else _Opening(path)

    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        try:
            cursor = connection.cursor()
            for pragma in (
                f"busy_timeout = {round(busy_timeout * 1000)}",
                "journal_mode = WAL",
                f"synchronous = {synchronous}",
                "foreign_keys = ON",
            ):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # the pool forgets a connection that fails here, and its thread
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
    """Opens a database that was there before only while it is there."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.existed = False

    def __call__(self, _dialect: Any, _record: Any, arguments: list[Any], options: Any) -> None:
        there = identity_of(self._path) is not None
        self.existed = self.existed or there
        if not self.existed or options.get("uri"):
            return  # the first connection makes it
        if not there:
            # As SQLite says it, without starting a thread for it.
            raise sqlite3.OperationalError("unable to open database file")
        arguments[0] = f"{Path(self._path).as_uri()}?mode=rw"
        options["uri"] = True


_guarded: WeakSet[sa.Engine] = WeakSet()


def guard(engine: sa.Engine, *, strict: bool = False) -> None:
    """Use no connection to a file that was replaced, once per engine.

    ``strict``: nor to one that was moved away. Only where opening does not make an empty file.
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


def identity_of(path: str) -> tuple[int, int] | None:
    """What tells a file from another one at the same path; None while there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - asked for each read
    except OSError:
        return None
    return status.st_dev, status.st_ino
