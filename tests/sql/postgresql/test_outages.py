"""A database that goes away and comes back: streams stay open, nothing is lost or told twice."""

import asyncio
import logging
import random
import signal

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.delivery._hub import Hub
from headwater.errors import SourceUnavailableError
from headwater.feeds._feed import Feed
from headwater.sql import Table
from support.postgres import Postgres
from support.streams import StreamClient
from support.tables import Base, Log, Recorder
from support.until import succeeds, until

pytestmark = pytest.mark.long

LOGS = Feed("logs", collection="logs", event="log")


@pytest.fixture
async def server():
    """One that a test may stop and kill."""
    server = Postgres()
    server.create()
    server.start()
    yield server
    server.remove()


@pytest.fixture
async def engine(server):
    engine = create_async_engine(server.url("postgres"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def test_a_server_that_is_away_makes_streams_wait(server, engine, caplog):
    table, sink = Table(engine, Log), Recorder()
    await table.origin.attach(sink)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (1)"))
    await sink.count(1)
    place = (await table.where().page(1)).end
    await asyncio.to_thread(server.stop)
    for _ in range(2):
        with pytest.raises(SourceUnavailableError):
            await table.where().page(1)
    with pytest.raises(SourceUnavailableError):
        await Table(engine, Log).origin.attach(Recorder())
    await until(lambda: [r for r in caplog.records if "cannot be read" in r.message])
    await asyncio.to_thread(server.start)

    async def insert():
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO logs (user_id) VALUES (2)"))

    # A pooled connection of before fails once.
    await succeeds(insert, DBAPIError)
    await sink.count(2)
    assert not sink.resets
    assert [c.item["id"] for c in (await table.where().page(9, after=place)).changes] == [2]
    said = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert "again" in said[-1]
    await table.origin.detach()


async def test_an_id_that_a_crash_gives_out_twice_hides_nothing(server, engine):
    """A transaction that gave up just before leaves no trace on disk; its id is used again."""
    table = Table(engine, Log)
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (1)"))
    async with engine.connect() as connection:
        await connection.execute(text("SET LOCAL synchronous_commit = off"))
        given_up = await connection.scalar(text("SELECT pg_current_xact_id()::text"))
        await connection.rollback()
    page = await table.where().page(5)
    assert not page.end.snapshot.has(int(given_up))
    place = str(page.end)
    await asyncio.to_thread(server.stop, signal.SIGQUIT)
    await asyncio.to_thread(server.start)
    await engine.dispose()
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (2)"))
    found = await table.where().locate(page.epoch, place)
    later = await table.where().page(5, after=found)
    assert [change.item["user_id"] for change in later.changes] == [2]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["restart", "crash"])
async def test_restarts_under_load(server, engine, how):
    """Writers go on, streams stay open; each row is told once, by the server's own count."""
    dice = random.Random(1)
    hub, logs = Hub(), Table(engine, Log)
    clients = [StreamClient(LOGS) for _ in range(4)]
    for client in clients:
        await client.connect(hub, logs.where())
    done = asyncio.Event()

    async def write():
        while not done.is_set():
            connection = await succeeds(
                lambda: psycopg.AsyncConnection.connect(server.conninfo("postgres")), psycopg.Error
            )
            try:
                async with connection:
                    while not done.is_set():
                        await connection.execute("INSERT INTO logs (user_id) VALUES (1)")
                        await asyncio.sleep(dice.random() * 0.01)
                        if dice.random() < 0.2:
                            await connection.rollback()
                        else:
                            await connection.commit()
            except psycopg.Error:
                continue

    writers = [asyncio.create_task(write()) for _ in range(4)]
    for number in range(3):
        before = len(clients[0].told)
        await until(lambda before=before: clients[0].read() or len(clients[0].told) > before + 20)
        await asyncio.to_thread(server.stop, how)
        await asyncio.to_thread(server.start)
        if number == 1:
            clients[1].leave(most=1)
            await clients[1].connect(hub, logs.where())
    before = len(clients[0].told)
    await until(lambda: clients[0].read() or len(clients[0].told) > before + 20)
    done.set()
    await asyncio.gather(*writers)
    async with await psycopg.AsyncConnection.connect(server.conninfo("postgres")) as connection:
        found = await connection.execute("SELECT id FROM logs")
        stored = sorted(row[0] for row in await found.fetchall())
    for client in clients:
        await until(lambda client=client: client.read() or len(client.told) >= len(stored))
        assert sorted(client.told) == stored
        assert not client.resets
        assert client.stream is not None
        assert not client.sender.closed
    await hub.close()
