"""Servers that are too old, a standby, or another one than before: said clearly, never guessed."""

import subprocess

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.errors import DeclarationError, PositionError, SourceUnavailableError
from headwater.sql import Table, renew_epochs
from headwater.sql.postgresql import _connections as connections
from support.postgres import Postgres, programs
from support.tables import Base, Client, Log, Recorder
from support.until import outside

pytestmark = pytest.mark.long


@pytest.fixture
def primary():
    server = Postgres()
    server.create()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def standby(primary):
    """A hot standby of the primary."""
    server = Postgres()
    primary.run(
        "pg_basebackup", "-h", primary.folder, "-U", "postgres", "-D", server.data, "-R",
        "-c", "fast", "--no-sync",
    )  # fmt: skip
    server.start()
    yield server
    server.remove()


async def opened(server, database="postgres"):
    return create_async_engine(server.url(database))


async def test_a_server_that_is_too_old_is_refused(engine, monkeypatch):
    monkeypatch.setattr(connections, "OLDEST", 990000)
    with pytest.raises(DeclarationError, match="too old.*13 or later"):
        await Table(engine, Log).where().page(1)
    with pytest.raises(DeclarationError, match="too old"):
        await Table(engine, Log).origin.attach(Recorder())


async def create(server):
    engine = await opened(server)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return engine


async def caught_up(primary, standby):
    async with primary.connect() as connection:
        wanted = await connection.scalar(text("SELECT pg_current_wal_insert_lsn()::text"))

    async def replayed():
        async with standby.connect() as connection:
            return await connection.scalar(
                text(f"SELECT pg_last_wal_replay_lsn() >= '{wanted}'::pg_lsn")
            )

    await outside(replayed)


async def test_a_hot_standby_tells_what_no_older_transaction_holds_up(primary, request):
    """It does not know which transactions run. So it waits for them, and is as exact."""
    writing = await create(primary)
    standby = request.getfixturevalue("standby")
    reading = await opened(standby)
    table, sink = Table(reading, Log), Recorder()
    await table.origin.attach(sink)
    async with writing.connect() as late:
        await late.execute(text("INSERT INTO logs (user_id, message) VALUES (1, 'late')"))
        async with writing.begin() as connection:
            await connection.execute(
                text("INSERT INTO logs (user_id, message) VALUES (2, 'early')")
            )
        # A standby learns of running transactions now and then.
        async with writing.connect() as connection:
            await connection.execute(text("CHECKPOINT"))
        await caught_up(writing, reading)
        assert sink.changes == []
        assert (await table.where().page(5)).changes == []
        await late.commit()
    await sink.count(2)
    assert [change.item["message"] for change in sink.changes] == ["late", "early"]
    # Its positions are good at the primary, and the other way round.
    place = sink.changes[0].place
    whole = Table(writing, Log)
    found = await whole.where().locate((await table.where().page(1)).epoch, str(place))
    assert len((await whole.where().page(5, after=found)).changes) == 1
    page = await whole.where().page(5)
    assert await table.where().locate(page.epoch, str(page.end)) == page.end
    await table.origin.detach()
    await reading.dispose()
    await writing.dispose()


async def test_a_promoted_replica_is_another_epoch(primary, request):
    writing = await create(primary)
    async with writing.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (1)"))
    before = await Table(writing, Log).where().page(1)
    standby = request.getfixturevalue("standby")
    reading = await opened(standby)
    await caught_up(writing, reading)
    table, sink = Table(reading, Log), Recorder()
    await table.origin.attach(sink)
    assert await table.origin.epoch() == before.epoch
    async with reading.connect() as connection:
        await connection.execute(text("SELECT pg_promote(true, 60)"))
    await sink.until(lambda sink: sink.resets, 20)
    assert sink.resets[0][0] == "unknown"
    with pytest.raises(PositionError):
        await table.where().locate(before.epoch, str(before.end))
    async with reading.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (2)"))
    await sink.count(1)
    await table.origin.detach()
    await reading.dispose()
    await writing.dispose()


async def test_a_restored_dump_says_what_to_do_and_then_goes_on(primary, postgres):
    """It carries transaction ids of another server, which this one has not given out yet."""
    # The other server has come further.
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as far:
        for _ in range(2000):
            far.execute("SELECT pg_current_xact_id()")
    name = postgres.database()
    source = create_async_engine(postgres.url(name))
    async with source.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (1), (2)"))
        await connection.execute(
            text("INSERT INTO clients (id, user_id) VALUES ('a', 1), ('b', 1)")
        )
        await connection.execute(text("DELETE FROM clients WHERE id = 'b'"))
    before = await Table(source, Log).where().page(5)
    await source.dispose()
    there = ["-h", str(postgres.folder), "-U", "postgres"]
    here = ["-h", str(primary.folder), "-U", "postgres", "-q", "-v", "ON_ERROR_STOP=1"]
    dump = subprocess.run([programs() / "pg_dump", *there, name], capture_output=True, check=True)
    subprocess.run([programs() / "psql", *here], input=dump.stdout, check=True, capture_output=True)
    engine = await opened(primary)
    table, sink = Table(engine, Log), Recorder()
    with pytest.raises(SourceUnavailableError, match="renew_epochs"):
        await table.where().page(5)
    with pytest.raises(SourceUnavailableError, match="renew_epochs"):
        await Table(engine, Client, order="total").origin.attach(Recorder())
    async with engine.begin() as connection:
        await connection.run_sync(renew_epochs)
    await table.origin.attach(sink)
    with pytest.raises(PositionError):
        await table.where().locate(before.epoch, str(before.end))
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (3)"))
    await sink.count(1)
    page = await table.where().page(5)
    assert [change.item["user_id"] for change in page.changes] == [1, 2, 3]
    clients = await Table(engine, Client).where().page(5)
    assert [change.item["id"] for change in clients.changes] == ["a"]
    await table.origin.detach()
    await engine.dispose()
    postgres.drop(name)
