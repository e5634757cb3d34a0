"""Trims on both databases: who follows is moved on before anything goes."""

import asyncio

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.delivery._hub import Hub
from headwater.feeds._feed import Feed
from headwater.sql import Table, sqlite_engine
from support.streams import StreamClient
from support.tables import Base, Client, Log, Recorder
from support.until import until

LOGS = Feed("logs", collection="logs", event="log")
CLIENTS = Feed("clients", collection="clients", event="client")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'd.db'}"
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.database()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
async def process(url):
    """Makes engines on the one database, as of several processes."""
    made = []

    async def make():
        engine = sqlite_engine(url) if url.startswith("sqlite") else create_async_engine(url)
        if not made:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.create_all)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        await engine.dispose()


async def add(engine, count, user=1):
    async with engine.connect() as connection:
        for _ in range(count):
            await connection.execute(insert(Log), [{"user_id": user}])
            await connection.commit()


async def test_a_quiet_stream_outlives_the_trims_of_another_process(process):
    """Its filter matches nothing for long; each trim moves its position on by a block of an id."""
    engine, other = await process(), await process()
    hub, logs = Hub(), Table(engine, Log)
    await add(other, 1, user=7)
    quiet, gone = StreamClient(LOGS), StreamClient(LOGS)
    for client in (quiet, gone):
        await client.connect(hub, logs.where(user_id=7))
    gone.leave()
    for _ in range(3):
        await add(other, 10)
        before = quiet.last
        trimming = asyncio.create_task(Table(other, Log).trim(max_count=5, grace=1.5))
        await until(lambda before=before: quiet.read() or quiet.last != before)
        assert not trimming.done()
        assert await trimming
    quiet.leave()
    assert (quiet.told, quiet.resets) == ([1], [])
    await add(other, 1, user=7)
    # Where nothing is remembered but what is in the database.
    fresh = Hub()
    await quiet.connect(fresh, Table(other, Log).where(user_id=7))
    await until(lambda: quiet.read() or len(quiet.told) == 2)
    assert quiet.resets == []
    await gone.connect(fresh, Table(await process(), Log).where(user_id=7))
    assert gone.resets == ["expired"]
    await hub.close()
    await fresh.close()


async def test_a_trim_with_nothing_to_remove_waits_for_nobody(process):
    engine = await process()
    await add(engine, 3)
    async with asyncio.timeout(20):
        assert await Table(engine, Log).trim(max_count=3, grace=60) == 0


async def test_what_is_written_after_the_announcement_stays(process):
    engine = await process()
    table, sink = Table(engine, Log), Recorder()
    await add(engine, 6)
    await table.origin.attach(sink)
    trimming = asyncio.create_task(table.trim(max_count=2, grace=0.5))
    await sink.until(lambda sink: sink.retired)
    await add(engine, 5)
    assert await trimming == 4
    page = await table.where().page(20)
    assert [change.item["id"] for change in page.changes] == list(range(5, 12))
    await table.origin.detach()


async def test_removals_are_announced_too(process):
    engine = await process()
    hub, clients = Hub(), Table(engine, Client)
    async with engine.begin() as connection:
        rows = [{"id": name, "user_id": user} for name, user in (("a", 1), ("b", 1), ("c", 2))]
        await connection.execute(insert(Client), rows)
    stream = StreamClient(CLIENTS)
    await stream.connect(hub, clients.where(user_id=2))
    async with engine.begin() as connection:
        await connection.execute(Client.__table__.delete().where(Client.user_id == 1))
    before = stream.last
    trimming = asyncio.create_task(clients.trim(max_count=0, grace=0.5))
    await until(lambda: stream.read() or stream.last != before)
    assert await trimming == 2
    stream.leave()
    await stream.connect(Hub(), Table(await process(), Client).where(user_id=2))
    assert stream.resets == []
    stream.leave()
    await hub.close()
