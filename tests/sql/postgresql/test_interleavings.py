"""Transactions that overlap, through the real hub: each client is told each item once."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.delivery._hub import Hub
from headwater.feeds._feed import Feed
from headwater.sql import Table
from support.streams import StreamClient
from support.tables import Client, Log, Recorder
from support.until import until

pytestmark = pytest.mark.long

LOGS = Feed("logs", collection="logs", event="log")
CLIENTS = Feed("clients", collection="clients", event="client")


@pytest.fixture
async def process(postgres, database):
    """Makes processes: each has an engine, tables and a hub of its own."""
    made = []

    def make(order="prompt"):
        engine = create_async_engine(postgres.url(database))
        hub = Hub()
        tables = Table(engine, Log, order=order), Table(engine, Client, order=order)
        made.append((engine, hub))
        return hub, *tables

    yield make
    for engine, hub in made:
        await hub.close()
        await engine.dispose()


async def told(client, count):
    await until(lambda: client.read() or len(client.told) >= count)
    assert len(client.told) == count
    return client.told


@asynccontextmanager
async def held(table):
    """The tail of a process reads nothing meanwhile, as one that is late."""
    original, gate = table.reader.batch, asyncio.Event()

    async def batch(*arguments):
        await gate.wait()
        return await original(*arguments)

    table.reader.batch = batch
    try:
        yield
    finally:
        table.reader.batch = original
        gate.set()


async def line(connection, *messages):
    for message in messages:
        await connection.execute("INSERT INTO logs (user_id, message) VALUES (1, %s)", (message,))


async def lines(connection):
    found = await connection.execute("SELECT id, message FROM logs")
    return dict(await found.fetchall())


async def test_a_late_commit_comes_when_it_commits_and_delays_nobody(session, process):
    hub, logs, _ = process()
    writer, late = await session(), await session()
    client = StreamClient(LOGS)
    await client.connect(hub, logs.where())
    await late.execute("BEGIN")
    await line(late, "late")
    await line(writer, "early")
    assert await told(client, 1) == [2]
    await late.execute("COMMIT")
    assert await told(client, 2) == [2, 1]


async def test_a_client_that_left_in_the_middle_gets_the_rest_once(session, process):
    """Also where a transaction that is older than the one it left in has committed since."""
    hub, logs, _ = process()
    writer, late = await session(), await session()
    client = StreamClient(LOGS)
    await client.connect(hub, logs.where())
    await late.execute("BEGIN")
    await line(late, "late a", "late b")
    await writer.execute("INSERT INTO logs (user_id) SELECT 1 FROM generate_series(1, 5)")
    await until(lambda: client.sender.data.count(b"event: log") == 5)
    client.leave(most=2)
    assert client.told == [3, 4]
    await late.execute("COMMIT")
    for other in (hub, process()[0]):
        again = StreamClient(LOGS)
        again.told, again.last = list(client.told), client.last
        await again.connect(other, logs.where() if other is hub else process()[1].where())
        found = await told(again, 7)
        assert sorted(found) == list(range(1, 8))


async def test_a_client_of_another_process_joins_the_ring_in_the_middle(session, process):
    """The two tails have the two transactions in another order; a stream joins without a read."""
    one_hub, one, _ = process()
    two_hub, two, _ = process()
    writer, late = await session(), await session()
    client, witness = StreamClient(LOGS), StreamClient(LOGS)
    await client.connect(one_hub, one.where())
    await witness.connect(two_hub, two.where())
    await late.execute("BEGIN")
    await line(late, "late a", "late b", "late c")
    # The first process sees the late one by itself, the second sees both at once.
    async with held(two):
        await writer.execute("INSERT INTO logs (user_id) SELECT 1 FROM generate_series(1, 3)")
        assert await told(client, 3) == [4, 5, 6]
        await late.execute("COMMIT")
        await until(lambda: client.sender.data.count(b"event: log") == 3)
        client.leave(most=2)
    assert client.told == [4, 5, 6, 1, 2]
    assert await told(witness, 6) == [1, 2, 3, 4, 5, 6]
    before = two_hub.streams.counters.reread
    await client.connect(two_hub, two.where())
    assert await told(client, 6) == [4, 5, 6, 1, 2, 3]
    # And what it holds now is a place as good as any other.
    client.leave()
    await line(writer, "more")
    await client.connect(one_hub, one.where())
    assert (await told(client, 7))[-1] == 7
    assert two_hub.streams.counters.reread == before


async def test_a_stream_that_is_ahead_of_its_process_leaves_out_what_it_had(session, process):
    hub, logs, _ = process()
    writer, late = await session(), await session()
    first = StreamClient(LOGS)
    await first.connect(hub, logs.where())
    await late.execute("BEGIN")
    await line(late, "late")
    async with held(logs):
        await line(writer, "a", "b")
        ahead = StreamClient(LOGS)
        await ahead.connect(hub, logs.where())
        assert ahead.told == [2, 3]
        await late.execute("COMMIT")
        await line(writer, "c")
    assert sorted(await told(ahead, 4)) == [1, 2, 3, 4]
    assert ahead.told[:2] == [2, 3]
    # Its ids say so too: it resumes in the other process with nothing missing.
    ahead.leave()
    other_hub, other, _ = process()
    await line(writer, "d")
    await ahead.connect(other_hub, other.where())
    assert sorted(await told(ahead, 5)) == [1, 2, 3, 4, 5]


async def test_a_slow_stream_that_was_ahead_goes_on_where_it_was(session, process, monkeypatch):
    hub, logs, _ = process()
    writer, late = await session(), await session()
    keeper = StreamClient(LOGS)
    await keeper.connect(hub, logs.where())
    await late.execute("BEGIN")
    await line(late, "late a" * 20_000, "late b" * 20_000)
    async with held(logs):
        await line(writer, "x")
        slow = StreamClient(LOGS)
        await slow.connect(hub, logs.where())
        assert slow.told == [3]
        slow.sender.room = 1
        await late.execute("COMMIT")
    # It is sent one of the late ones from the ring; then its peer does not read any more.
    await until(lambda: keeper.read() or len(keeper.told) == 3)
    slow.read()
    assert (slow.told, slow.sender.full) == ([3, 1], True)
    # The ring forgets it all.
    monkeypatch.setattr("headwater.delivery._ring.RING_FRAMES", 1)
    for number in range(5):
        await line(writer, f"z{number}")
        await told(keeper, 4 + number)
    slow.sender.drain()
    assert await told(slow, 8) == [3, 1, 2, 4, 5, 6, 7, 8]


async def test_an_older_transaction_that_updates_a_row_later_has_the_last_word(session, process):
    hub, _, clients = process()
    old, young = await session(), await session()
    client = StreamClient(CLIENTS)
    await young.execute("INSERT INTO clients (id, user_id, name) VALUES ('a', 1, 'first')")
    await client.connect(hub, clients.where(user_id=1))
    await old.execute("BEGIN")
    await old.execute("SELECT pg_current_xact_id()")
    await young.execute("UPDATE clients SET name = 'young'")
    await until(lambda: client.read() or client.items["a"]["name"] == "young")
    await old.execute("UPDATE clients SET name = 'old'")
    await old.execute("COMMIT")
    await until(lambda: client.read() or client.items["a"]["name"] == "old")


@pytest.mark.parametrize("order", ["prompt", "total"])
@pytest.mark.parametrize("how", ["delete", "move"])
async def test_a_row_that_an_older_transaction_brings_back_is_there(session, process, order, how):
    """The younger removal is told before the row, although its transaction is the later one."""
    hub, _, clients = process(order)
    old, young = await session(), await session()
    await young.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1), ('b', 1)")
    seen = StreamClient(CLIENTS)
    await seen.connect(hub, clients.where(user_id=1))
    every = StreamClient(CLIENTS)
    async with held(clients):
        await every.connect(hub, clients.where())
        page = await clients.where().page(10)
        await old.execute("BEGIN")
        await old.execute("SELECT pg_current_xact_id()")
        if how == "delete":
            await young.execute("DELETE FROM clients WHERE id = 'a'")
            await old.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1)")
        else:
            await young.execute("UPDATE clients SET user_id = 2 WHERE id = 'a'")
            await old.execute("UPDATE clients SET user_id = 1 WHERE id = 'a'")
        await old.execute("COMMIT")
        await young.execute("DELETE FROM clients WHERE id = 'b'")
    for client in (seen, every):
        await until(lambda client=client: client.read() or "b" not in client.items)
        assert client.items["a"]["user_id"] == 1
    later = await clients.where(user_id=1).page(10, after=page.end)
    whole = [(change.key["id"], change.removed) for change in later.changes]
    assert whole.index(("a", True)) < whole.index(("a", False))


async def test_a_removal_that_some_were_told_already_moves_to_the_older_transaction(
    session, process
):
    hub, _, clients = process()
    old, young = await session(), await session()
    await young.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    client = StreamClient(CLIENTS)
    await client.connect(hub, clients.where(user_id=1))
    await old.execute("BEGIN")
    await old.execute("SELECT pg_current_xact_id()")
    await young.execute("DELETE FROM clients")
    await until(lambda: client.read() or not client.items)
    client.leave()
    await old.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    await old.execute("COMMIT")
    await client.connect(hub, clients.where(user_id=1))
    await until(lambda: client.read() or client.items)


async def test_in_total_order_younger_transactions_wait_for_older_ones(session, process):
    hub, logs, _ = process("total")
    writer, late = await session(), await session()
    client = StreamClient(LOGS)
    await client.connect(hub, logs.where())
    await late.execute("BEGIN")
    await line(late, "late")
    await line(writer, "early")
    assert (await logs.where().page(5)).changes == []
    await late.execute("COMMIT")
    assert await told(client, 2) == [1, 2]
    # A transaction that writes elsewhere, or gives up, holds it up as well.
    await late.execute("BEGIN")
    await late.execute("CREATE TABLE elsewhere (id int)")
    await line(writer, "held up")
    assert not (await logs.where().page(5, after=(await logs.where().page(5)).end)).changes
    await late.execute("ROLLBACK")
    assert await told(client, 3) == [1, 2, 3]


async def test_sequences_that_are_cached_do_not_matter(session, process):
    hub, logs, _ = process()
    one, two = await session(), await session()
    await one.execute("ALTER SEQUENCE logs_id_seq CACHE 50")
    client = StreamClient(LOGS)
    await client.connect(hub, logs.where())
    for _ in range(3):
        await line(two, "b")
        await line(one, "a")
    found = await told(client, 6)
    assert found != sorted(found)
    stored = await lines(one)
    assert [stored[number] for number in found] == list("bababa")


@pytest.mark.parametrize("order", ["prompt", "total"])
async def test_many_writers_and_clients_that_come_and_go(session, process, order):
    """Two processes, clients that leave anywhere and resume at either, all kinds of endings."""
    dice = random.Random(5)
    processes = [process(order) for _ in range(2)]
    committed = []

    async def write(writer):
        connection = await session()
        for number in range(30):
            await connection.execute("BEGIN")
            own = []
            for _ in range(dice.randint(1, 4)):
                found = await connection.execute(
                    "INSERT INTO logs (user_id, message) VALUES (%s, %s) RETURNING id",
                    (writer, str(number)),
                )
                own.append((await found.fetchone())[0])
                if dice.random() < 0.3:
                    await connection.execute("SAVEPOINT s")
                    await line(connection, "undone")
                    await connection.execute("ROLLBACK TO s")
            await asyncio.sleep(dice.random() * 0.01)
            if dice.random() < 0.2:
                await connection.execute("ROLLBACK")
            else:
                await connection.execute("COMMIT")
                committed.extend(own)

    clients = [StreamClient(LOGS) for _ in range(8)]
    done = asyncio.Event()

    async def live(client):
        while not done.is_set():
            hub, logs, _ = dice.choice(processes)
            await client.connect(hub, logs.where())
            await asyncio.sleep(dice.random() * 0.1)
            client.leave(most=dice.choice([None, 0, 1, 2, 5]))

    running = [asyncio.create_task(live(client)) for client in clients]
    await asyncio.gather(*(write(writer) for writer in range(6)))
    done.set()
    await asyncio.gather(*running)
    for client in clients:
        hub, logs, _ = dice.choice(processes)
        await client.connect(hub, logs.where())
    for client in clients:
        assert sorted(await told(client, len(committed))) == sorted(committed)
        assert not client.resets
        if order == "total":
            assert client.told == clients[0].told


async def test_all_of_a_bulk_insert_is_told_in_its_order(engine, session):
    table, sink = Table(engine, Client), Recorder()
    await table.origin.attach(sink)
    writer = await session()
    await writer.execute(
        "INSERT INTO clients (id, user_id) SELECT md5(g::text), 1 FROM generate_series(1, 1200) g"
    )
    await sink.count(1200)
    async with engine.connect() as connection:
        found = await connection.scalars(
            text("SELECT md5(g::text) FROM generate_series(1, 1200) g")
        )
        assert [change.item["id"] for change in sink.changes] == list(found)
    await table.origin.detach()
