"""Several writers in one process must wait for each other, not fail."""

import asyncio
import os
import sqlite3

import pytest
from sqlalchemy import create_engine, event, insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from headwater.errors import DeclarationError
from headwater.sql import configure_sqlite, sqlite_engine
from headwater.sql.sqlite._connections import file_of
from support.tables import Log


async def test_the_pragmas_are_set(engine):
    async with engine.connect() as connection:
        for name, value in {
            "journal_mode": "wal",
            "synchronous": 1,
            "busy_timeout": 5000,
            "foreign_keys": 1,
        }.items():
            assert await connection.scalar(text(f"PRAGMA {name}")) == value


async def test_writers_that_read_first_do_not_fail(engine):
    async def write(writer):
        for _ in range(10):
            async with AsyncSession(engine) as session:
                await session.execute(select(Log).limit(3))
                session.add_all([Log(user_id=writer) for _ in range(3)])
                await session.commit()

    await asyncio.gather(*(write(writer) for writer in range(4)))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM logs")) == 120


async def test_the_lock_is_taken_with_the_first_write(engine):
    seen = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda c, cur, sql, *_: seen.append(sql)
    )
    async with engine.connect() as connection:
        await connection.execute(select(Log.id))
        await connection.execute(insert(Log).values(user_id=1))
        await connection.execute(insert(Log).values(user_id=2))
        await connection.commit()
        await connection.execute(text("WITH x AS (SELECT 1) SELECT * FROM x"))
        await connection.execute(
            text("WITH x AS (SELECT 3) INSERT INTO logs (user_id) SELECT * FROM x")
        )
        await connection.rollback()
    words = [sql.split()[0] for sql in seen]
    assert words == ["SELECT", "BEGIN", "INSERT", "INSERT", "WITH", "BEGIN", "WITH"]


async def test_ddl_and_savepoints_are_part_of_the_transaction(engine):
    async with engine.connect() as connection:
        async with connection.begin_nested():
            await connection.execute(text("CREATE TABLE gone (a INTEGER)"))
        try:
            async with connection.begin_nested():
                await connection.execute(insert(Log).values(user_id=1))
                raise KeyError
        except KeyError:
            pass
        assert await connection.scalar(text("SELECT count(*) FROM logs")) == 0
        await connection.rollback()
        found = await connection.scalars(text("SELECT name FROM sqlite_master"))
        assert "gone" not in set(found)


async def test_autocommit_is_left_alone(engine):
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(insert(Log).values(user_id=1))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM logs")) == 1


async def test_a_missing_database_is_made_once_and_never_again(tmp_path):
    path = tmp_path / "a b%20.db"
    engine = sqlite_engine(f"sqlite:///{path}".replace("%", "%25"))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    made = next(tmp_path.glob("*.db"))
    for file in tmp_path.iterdir():
        file.rename(file.with_name("x" + file.name))
    for _ in range(3):
        with pytest.raises(OperationalError, match="unable to open"):
            async with engine.connect():
                pass
    assert not made.exists()
    for file in tmp_path.iterdir():
        file.rename(file.with_name(file.name[1:]))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()


async def test_a_replaced_file_is_opened_anew(engine, path):
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    new = path.with_name("new.db")
    with sqlite3.connect(new) as database:
        database.execute("CREATE TABLE other (a)")
    database.close()
    new.rename(path)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    async with engine.connect() as connection:
        assert (await connection.scalars(text("SELECT name FROM sqlite_master"))).all() == ["other"]


def test_a_plain_engine_can_be_configured(path):
    engine = configure_sqlite(create_engine(f"sqlite:///{path}"), synchronous="FULL")
    with engine.begin() as connection:
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        connection.execute(text("CREATE TABLE t (a)"))
    engine.dispose()


def test_what_is_no_sqlite_is_refused():
    with pytest.raises(DeclarationError, match="not the URL of a SQLite"):
        sqlite_engine("postgresql://h/d")
    with pytest.raises(DeclarationError, match="must be NORMAL"):
        configure_sqlite(create_async_engine("sqlite+aiosqlite://"), synchronous="x")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db", os.path.abspath("b.db")),
        ("sqlite:///file:/a/b.db?uri=true", "/a/b.db"),
        ("sqlite:///file:///a/b.db?uri=true", "/a/b.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///file::memory:?cache=shared&uri=true", None),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", None),
    ],
)
def test_the_file_of_an_engine(url, path):
    engine = create_engine(url, poolclass=StaticPool)
    assert file_of(engine) == path
    engine.dispose()


def test_an_application_keeps_its_own_semantics(path):
    """Foreign keys and durability are the application's choice."""
    made = create_engine(f"sqlite:///{path}")
    for engine, expected in (
        (configure_sqlite(made), (0, 2)),
        (
            configure_sqlite(
                create_engine(f"sqlite:///{path}"), foreign_keys=True, synchronous="NORMAL"
            ),
            (1, 1),
        ),
    ):
        with engine.connect() as connection:
            found = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("foreign_keys", "synchronous")
            ]
        assert tuple(found) == expected
        engine.dispose()
