"""Retention: what is told as expired is really gone, and who follows is never under its feet."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text

from headwater.delivery._hub import Hub
from headwater.errors import PositionError
from headwater.feeds._feed import Feed
from headwater.sql import Table
from headwater.sql.postgresql._place import SnapshotPlace
from headwater.sql.postgresql._snapshot import TransactionSnapshot
from support.streams import StreamClient
from support.tables import START, Client, Clock, Log, Recorder
from support.until import until

pytestmark = pytest.mark.long

LOGS = Feed("logs", collection="logs", event="log")


@pytest.fixture
async def logs(engine):
    """Twelve rows, each of its own transaction."""
    async with engine.connect() as connection:
        for n in range(1, 13):
            await connection.execute(insert(Log), [{"user_id": n % 2}])
            await connection.commit()
    return Table(engine, Log)


async def run(engine, sql, **values):
    async with engine.begin() as connection:
        await connection.execute(text(sql), values)


def ids(page):
    return [f"-{c.key['id']}" if c.removed else c.item["id"] for c in page.changes]


async def test_trim_by_count(logs):
    source = logs.where()
    every = (await source.page(20)).changes
    assert await logs.trim(max_count=5, grace=0) == 7
    assert await logs.trim(max_count=5, grace=0) == 0
    assert ids(await source.page(20)) == [8, 9, 10, 11, 12]
    assert ids(await source.page(2, after=every[7].place)) == [9, 10]
    epoch = (await source.page(1)).epoch
    for ask in (source.page(2, after=every[5].place), source.locate(epoch, str(every[5].place))):
        with pytest.raises(PositionError) as caught:
            await ask
        assert caught.value.reason == "expired"


async def test_trim_by_age_in_steps(engine):
    table = Table(engine, Log)
    table.reader.clock = Clock()
    old, new = START - timedelta(days=31), START - timedelta(days=29)
    async with engine.begin() as connection:
        rows = [{"user_id": 1, "created_at": old} for _ in range(1300)]
        await connection.execute(insert(Log), rows)
    await run(engine, "INSERT INTO logs (user_id, created_at) VALUES (2, :new)",
              new=new.replace(tzinfo=None))  # fmt: skip
    first = (await table.where().page(1, after=SnapshotPlace(TransactionSnapshot(1)))).end
    wanted = {"max_age": timedelta(days=30), "column": "created_at", "grace": 0}
    assert await table.trim(**wanted) == 1300
    with pytest.raises(PositionError):
        await table.where().page(1, after=first)
    assert [c.item["user_id"] for c in (await table.where().page(2000)).changes] == [2]


async def test_a_keyed_table_forgets_removals_and_keeps_rows(engine):
    clients = Table(engine, Client)
    clock = clients.reader.clock = Clock()
    await run(engine, "INSERT INTO clients (id, user_id) VALUES ('a', 1), ('b', 1)")
    before = (await clients.where().page(5)).end
    await run(engine, "DELETE FROM clients WHERE id = 'a'")
    clock.now = datetime.now(UTC) + timedelta(hours=1)
    assert await clients.trim(max_age=timedelta(hours=2), grace=0) == 0
    assert ids(await clients.where().page(5, after=before)) == ["-a"]
    assert await clients.trim(max_age=timedelta(minutes=30), grace=0) == 1
    assert ids(await clients.where().page(5)) == ["b"]
    with pytest.raises(PositionError, match="older than"):
        await clients.where().page(5, after=before)


async def test_all_can_be_trimmed_and_the_feed_goes_on(engine, logs):
    source = logs.where()
    assert await logs.trim(max_count=0, grace=0) == 12
    page = await source.page(5)
    assert ids(page) == []
    await run(engine, "INSERT INTO logs (user_id) VALUES (1)")
    assert ids(await source.page(5, after=await source.locate(page.epoch, str(page.end)))) == [13]


async def test_what_a_running_transaction_may_still_precede_is_kept(logs, session):
    """Else a place that lacks the running one would count as expired."""
    running = await session()
    await running.execute("BEGIN")
    await running.execute("INSERT INTO logs (user_id) VALUES (1)")
    writer = await session()
    await writer.execute("INSERT INTO logs (user_id) VALUES (1), (1)")
    page = await logs.where().page(3)
    assert await logs.trim(max_count=0, grace=0) == 12
    await running.execute("COMMIT")
    assert ids(await logs.where().page(9, after=page.end)) == [13]


async def test_who_follows_is_told_before(engine, logs):
    sink = Recorder()
    await logs.origin.attach(sink)
    trimming = asyncio.create_task(logs.trim(max_count=5, grace=0.3))
    await sink.until(lambda sink: sink.retired)
    assert not trimming.done()
    assert len((await logs.where().page(20)).changes) == 12
    before = sink.retired[0]
    seventh, eighth = (await logs.where().page(20)).changes[6:8]
    assert eighth.place.includes(before)
    assert not seventh.place.includes(before)
    assert await trimming == 7
    assert len(sink.retired) == 1
    assert not sink.resets
    await logs.origin.detach()


async def test_a_quiet_stream_outlives_the_trims(engine, logs, session):
    """Its filter matches nothing for long; each trim moves its position on by a block of an id."""
    hub = Hub()
    quiet, gone = StreamClient(LOGS), StreamClient(LOGS)
    await run(engine, "INSERT INTO logs (user_id) VALUES (7)")
    for client in (quiet, gone):
        await client.connect(hub, logs.where(user_id=7))
    gone.leave()
    writer = await session()
    for _ in range(3):
        for _ in range(10):
            await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
        await logs.trim(max_count=5, grace=0.3)
    quiet.leave()
    assert quiet.told == [13]
    await run(engine, "INSERT INTO logs (user_id) VALUES (7)")
    await quiet.connect(hub, logs.where(user_id=7))
    await until(lambda: quiet.read() or len(quiet.told) == 2)
    assert quiet.resets == []
    # One that was not connected could still be served from this process's memory, not by another.
    other = Hub()
    await gone.connect(other, Table(engine, Log).where(user_id=7))
    assert gone.resets == ["expired"]
    await hub.close()
    await other.close()


async def test_two_processes_may_trim_at_once(engine, logs):
    both = await asyncio.gather(
        logs.trim(max_count=5, grace=0), Table(engine, Log).trim(max_count=3, grace=0)
    )
    assert sum(both) == 9
    assert ids(await logs.where().page(20)) == [10, 11, 12]
