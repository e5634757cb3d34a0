"""A tail's own connection: it reads what the engine would, and does not outlive its use."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from headwater.sql.sqlite._connections import ReadConnection, sqlite_engine

metadata = sa.MetaData()
NOTES = sa.Table(
    "notes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.DateTime),
    sa.Column("more", sa.JSON),
)


@pytest.fixture
async def engine(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/notes.db", pool_size=1, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(
            NOTES.insert(), [{"id": n, "at": datetime(2026, 1, n), "more": [n]} for n in (1, 2)]
        )
    yield engine
    await engine.dispose()


@pytest.fixture
async def direct(engine):
    direct = ReadConnection(engine)
    yield direct
    await direct.close()


async def test_rows_are_those_of_the_engine(engine, direct):
    """Also of types that SQLite does not have, as parameters and as results."""
    query = sa.select(NOTES).where(NOTES.c.at >= sa.bindparam("since", type_=sa.DateTime))
    values = {"since": datetime(2026, 1, 2)}
    async with engine.connect() as connection:
        wanted = [tuple(row) for row in await connection.execute(query, values)]
    assert [tuple(row) for row in await direct.read(query, values)] == wanted
    assert wanted == [(2, datetime(2026, 1, 2), [2])]


async def test_the_pool_keeps_all_its_connections(engine, direct):
    """An application with one connection would else wait for the tail for ever."""
    await direct.rows("SELECT 1")
    async with engine.connect() as connection:
        assert (await connection.execute(sa.text("SELECT 1"))).scalar() == 1


async def test_each_read_sees_what_was_committed_before_it(engine, direct):
    count = "SELECT count(*) FROM notes"
    assert list(await direct.rows(count)) == [(2,)]
    async with engine.begin() as connection:
        await connection.execute(NOTES.insert(), {"id": 3, "at": datetime.now(UTC), "more": None})
    assert list(await direct.rows(count)) == [(3,)]


async def test_a_file_in_the_place_of_the_old_one_is_what_is_read(tmp_path, direct):
    """A backup that is put back must not leave readers at the database that is no more."""
    assert list(await direct.rows("SELECT count(*) FROM notes")) == [(2,)]
    path = tmp_path / "notes.db"
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE notes (id INTEGER)")
    other.close()
    (tmp_path / "other.db").replace(path)
    for side in ("-wal", "-shm"):
        (tmp_path / f"notes.db{side}").unlink(missing_ok=True)
    assert list(await direct.rows("SELECT count(*) FROM notes")) == [(0,)]


async def test_an_error_is_the_one_that_the_engine_raises(direct):
    with pytest.raises(sa.exc.OperationalError, match="no such table: none"):
        await direct.rows("SELECT * FROM none")
    assert list(await direct.rows("SELECT 1")) == [(1,)]


async def test_closing_ends_its_thread(tmp_path):
    before = set(threading.enumerate())  # those of others may end meanwhile
    (tmp_path / "its.db").touch()
    engine = sqlite_engine(f"sqlite:///{tmp_path}/its.db")
    direct = ReadConnection(engine)
    await direct.rows("SELECT 1")
    (its,) = set(threading.enumerate()) - before
    await direct.close()
    await asyncio.to_thread(its.join, 10)
    assert not its.is_alive()
    await engine.dispose()
