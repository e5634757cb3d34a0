"""Appends that join the caller's own transaction, and the tables that they need."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog import open_log
from headwater.eventlog.sql import SqlLog, create_tables, drop_tables
from headwater.testing._eventlog import Recorder

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
async def orders(log: SqlLog) -> AsyncIterator[None]:
    async with log.engine.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE orders (id integer PRIMARY KEY)"))
    yield


async def test_an_append_in_a_transaction_is_published_if_it_commits(log, seen):
    """An order and its event are both there, or neither."""
    follower = Recorder()
    await log.follow("t", follower)
    async with log.engine.begin() as connection:
        await connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        (record,) = await log.append("t", {"n": 1}, connection=connection)
        assert await seen(log) == [], "it is published before the commit"
    await follower.count(1)
    assert follower.records == [record]


async def test_an_append_in_a_transaction_that_is_rolled_back_never_was(log):
    follower = Recorder()
    await log.follow("t", follower)
    with pytest.raises(ZeroDivisionError):
        async with log.engine.begin() as connection:
            await connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
            await log.append("t", {"n": 1}, key="k", connection=connection)
            1 / 0  # noqa: B018
    # Neither its number nor its key is used up.
    (record,) = await log.append("t", {"n": 2}, key="k")
    assert str(record.offset) == "1"
    await follower.count(1)
    assert follower.records == [record]


async def test_a_session_can_be_joined_and_a_savepoint_undone(log, seen):
    follower = Recorder()
    await log.follow("t", follower)
    async with AsyncSession(log.engine) as session:
        await session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        await log.append("t", [{"n": 1}, {"n": 2}], connection=session)
        savepoint = await session.begin_nested()
        await log.append("t", {"n": "undone"}, connection=session)
        await savepoint.rollback()
        async with session.begin_nested():
            await log.append("t", {"n": 3}, connection=session)
        await session.commit()
    assert await seen(log) == [1, 2, 3]
    await follower.count(3)
    assert [record.data["n"] for record in follower.records] == [1, 2, 3]


async def test_a_key_counts_inside_and_outside_of_transactions(log, seen):
    first = await log.append("t", {"n": 1}, key="k")
    async with log.engine.begin() as connection:
        assert await log.append("t", {"n": 1}, key="k", connection=connection) == first
        inner = await log.append("t", {"n": 2}, key="l", connection=connection)
        assert await log.append("t", {"n": 2}, key="l", connection=connection) == inner
    assert await log.append("t", {"n": 2}, key="l") == inner
    assert await seen(log) == [1, 2]


async def test_a_prepared_transaction_is_published_when_it_is_committed(log, session, seen):
    """Two-phase commits end in another session than they began in."""
    follower = Recorder()
    await log.follow("t", follower)
    async with log.engine.connect() as connection:
        await log.append("t", {"n": 1}, connection=connection)
        await connection.execute(sa.text("PREPARE TRANSACTION 'both'"))
    await log.append("u", {"n": 1})
    assert await seen(log) == []
    other = await session()
    await other.execute("COMMIT PREPARED 'both'")
    await follower.count(1)
    assert await seen(log) == [1]


async def test_a_snapshot_that_is_too_old_is_an_error_and_not_a_wrong_order(log, seen):
    """REPEATABLE READ cannot see what was appended since; the caller tries again."""
    await log.append("t", {"n": 0})
    async with log.engine.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(sa.text("SELECT 1 FROM orders"))
        await log.append("t", {"n": 1})
        with pytest.raises(SourceUnavailableError, match="give way"):
            await log.append("t", {"n": 2}, connection=connection)
        await connection.rollback()
        await log.append("t", {"n": 3}, connection=connection)
        await connection.commit()
    assert await seen(log) == [0, 1, 3]


async def test_transactions_that_wait_for_each_other_get_an_error(log, seen):
    """Of two that lock two topics crosswise, one goes on."""
    async with log.engine.connect() as one, log.engine.connect() as two:
        await log.append("a", {"n": 1}, connection=one)
        await log.append("b", {"n": 2}, connection=two)
        waiting = asyncio.create_task(log.append("b", {"n": 1}, connection=one))
        crossing = asyncio.create_task(log.append("a", {"n": 2}, connection=two))
        done, _ = await asyncio.wait([waiting, crossing], return_when=asyncio.FIRST_EXCEPTION)
        (failed,) = [task for task in done if task.exception()]
        assert isinstance(failed.exception(), SourceUnavailableError)
        loser, winner = (one, two) if failed is waiting else (two, one)
        await loser.rollback()
        await asyncio.wait([waiting, crossing])
        await winner.commit()
    assert await seen(log, "a") == await seen(log, "b") == [2 if winner is two else 1]


async def test_only_a_connection_can_be_joined(log, seen):
    with pytest.raises(UsageError, match="AsyncConnection"):
        await log.append("t", {"n": 1}, connection=log.engine)
    assert await seen(log) == []


async def test_the_tables_can_be_made_by_a_migration(url, log, session, seen):
    """Where the application may not create tables, it only needs them to be there."""
    other = await session()
    async with log.engine.begin() as connection:
        await connection.run_sync(drop_tables)
        await connection.run_sync(create_tables)
        await connection.run_sync(create_tables)
    await other.execute("DROP ROLE IF EXISTS app")
    await other.execute("CREATE ROLE app LOGIN")
    await other.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE"
        " ON headwater_log, headwater_topics, headwater_events TO app"
    )
    async with open_log(url.replace("postgres@", "app@")) as mine:
        await mine.append("t", {"n": 1})
        assert await seen(mine) == [1]
        assert await mine.trim("t", max_count=0) == 1
    await other.execute("DROP TABLE headwater_log, headwater_topics, headwater_events")
    refused = open_log(url.replace("postgres@", "app@"))
    with pytest.raises(SourceUnavailableError, match="may not do that"):
        await refused.start()
    await refused.close()
    await other.execute("DROP ROLE app")


async def test_many_start_at_once(url, log):
    """Workers that start on an empty database agree on one life of the log."""
    async with log.engine.begin() as connection:
        await connection.run_sync(drop_tables)
    logs = [open_log(url) for _ in range(6)]
    await asyncio.gather(*(one.start() for one in logs))
    assert len({(await one.bounds("t")).epoch for one in logs}) == 1
    for one in logs:
        await one.close()


async def test_other_drivers_are_refused():
    class Dialect:
        name, driver = "postgresql", "asyncpg"

    class Engine:
        dialect = Dialect()

    with pytest.raises(UsageError, match="psycopg"):
        SqlLog(Engine())


async def test_two_logs_on_one_engine_of_the_application(url, seen):
    engine = create_async_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    async with SqlLog(engine) as one, SqlLog(engine) as two:
        follower = Recorder()
        await two.follow("t", follower)
        await one.append("t", {"n": 1})
        await follower.count(1)
    await engine.dispose()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_stricter_default_of_the_database_refuses_no_append(url, database, session, level):
    """The log sets what it needs for its own transactions."""
    other = await session()
    await other.execute(f"ALTER DATABASE {database} SET default_transaction_isolation = '{level}'")
    async with open_log(url) as one, open_log(url) as two:
        follower = Recorder()
        await one.follow("t", follower)
        for n in range(10):
            await asyncio.gather(*(log.append("t", {"n": n}) for log in (one, two) * 5))
        await follower.count(100)
        assert (await one.bounds("t")).latest == (100,)
