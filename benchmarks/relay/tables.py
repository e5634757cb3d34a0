"""The table that is relayed: on either database, with its writers and what they committed."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import psycopg
import sqlalchemy as sa

from headwater.sql import configure_sqlite, track_table

ROWS = sa.Table(
    "relay_rows",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("writer", sa.Integer, nullable=False),
    # The writer's own count.
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
track_table(ROWS)

NOTE = "what a row of an outbox holds, in some eighty characters of text or a few more"


class Database(Protocol):
    """The table in one database.

    Attributes:
        url: as relays are told of it.
    """

    url: str

    def insert(self, writer: int, first: int, count: int, *, commit: bool = True) -> None:
        """One transaction with ``count`` rows."""

    def rows(self) -> list[tuple[int, int, int]]:
        """Id, writer and number of each row, in the order of their changes."""

    def holder(self) -> int | None:
        """The process that holds the relay, if one does."""


class PostgreSQL:
    def __init__(self, url: str) -> None:
        address = sa.make_url(url)
        self._info = address.set(drivername="postgresql").render_as_string(hide_password=False)
        self.url = self._info
        engine = sa.create_engine(address.set(drivername="postgresql+psycopg"))
        with engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS headwater_relays"))
            ROWS.drop(connection, checkfirst=True)
            ROWS.create(connection)
            connection.execute(sa.text("ALTER SEQUENCE relay_rows_id_seq CACHE 50"))
        engine.dispose()
        self._local = threading.local()
        self._connections: list[psycopg.Connection] = []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def insert(self, writer: int, first: int, count: int, *, commit: bool = True) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = psycopg.connect(self._info)
            self._connections.append(connection)
        given = [(writer, first + at, NOTE) for at in range(count)]
        connection.cursor().executemany(
            "INSERT INTO relay_rows (writer, number, note) VALUES (%s, %s, %s)", given
        )
        if commit:
            connection.commit()
        else:
            connection.rollback()

    def rows(self) -> list[tuple[int, int, int]]:
        with psycopg.connect(self._info) as connection:
            return connection.execute(
                "SELECT id, writer, number FROM relay_rows "
                "ORDER BY headwater_change, headwater_order"
            ).fetchall()

    def holder(self) -> int | None:
        with psycopg.connect(self._info) as connection:
            return _pid(connection.execute("SELECT holder FROM headwater_relays").fetchall())


class SQLite:
    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self._path = path
        engine = configure_sqlite(sa.create_engine(self.url))
        ROWS.create(engine)
        engine.dispose()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30, isolation_level=None)

    def insert(self, writer: int, first: int, count: int, *, commit: bool = True) -> None:
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT INTO relay_rows (writer, number, note) VALUES (?, ?, ?)",
                [(writer, first + at, NOTE) for at in range(count)],
            )
            connection.execute("COMMIT" if commit else "ROLLBACK")

    def rows(self) -> list[tuple[int, int, int]]:
        with closing(self._connect()) as connection:
            return connection.execute(
                "SELECT id, writer, number FROM relay_rows ORDER BY headwater_change"
            ).fetchall()

    def holder(self) -> int | None:
        with closing(self._connect()) as connection:
            return _pid(connection.execute("SELECT holder FROM headwater_relays").fetchall())


def _pid(rows: Sequence[tuple[str | None]]) -> int | None:
    return next((int(row[0].split(":")[-2]) for row in rows if row[0]), None)


def write(database: Database, writer: int, rows: int, most: int, seed: int) -> None:
    """``rows`` rows in transactions of up to ``most``; one in ten is rolled back at first."""
    dice = random.Random(seed + writer)
    done = 0
    while done < rows:
        count = min(dice.randint(1, most), rows - done)
        if dice.random() < 0.1:
            database.insert(writer, done, count, commit=False)
        database.insert(writer, done, count)
        done += count
