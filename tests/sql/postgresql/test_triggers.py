"""Every way to write a row must be told: by the ORM, by plain SQL, by COPY, by any role."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import Table, renew_epochs
from support.tables import Client, Log, Recorder

pytestmark = pytest.mark.long


@pytest.fixture
async def writer(session):
    return await session()


class Told:
    """What a client of a table is told, statement by statement."""

    def __init__(self, table):
        self.source = table.where()
        self.place = None

    async def start(self):
        self.place = (await self.source.page(1)).end
        return self

    async def more(self):
        page = await self.source.page(100, after=self.place)
        self.place = page.end
        return [
            ("gone", c.key["id"], c.values["user_id"]) if c.removed
            else (c.item["id"], c.item["user_id"])
            for c in page.changes
        ]  # fmt: skip


@pytest.fixture
async def clients(engine):
    return await Told(Table(engine, Client)).start()


@pytest.fixture
async def logs(engine):
    return await Told(Table(engine, Log)).start()


async def test_append_only_tells_inserts_alone(writer, logs):
    await writer.execute("INSERT INTO logs (user_id) VALUES (1), (2)")
    assert await logs.more() == [(1, 1), (2, 2)]
    await writer.execute("UPDATE logs SET user_id = 5")
    await writer.execute("DELETE FROM logs WHERE id = 1")
    assert await logs.more() == []


async def test_a_keyed_table_tells_the_last_version_and_what_left(writer, clients):
    await writer.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1), ('b', 1)")
    assert await clients.more() == [("a", 1), ("b", 1)]
    await writer.execute("UPDATE clients SET name = 'x' WHERE id = 'a'")
    await writer.execute("UPDATE clients SET name = 'y' WHERE id = 'a'")
    assert await clients.more() == [("a", 1)]
    await writer.execute("UPDATE clients SET user_id = 2 WHERE id = 'a'")
    assert await clients.more() == [("gone", "a", 1), ("a", 2)]
    await writer.execute("UPDATE clients SET id = 'c' WHERE id = 'a'")
    assert await clients.more() == [("gone", "a", 2), ("c", 2)]
    await writer.execute("DELETE FROM clients")
    assert await clients.more() == [("gone", "b", 1), ("gone", "c", 2)]


async def test_upserts(writer, clients):
    await writer.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    await clients.more()
    put = "INSERT INTO clients (id, user_id) VALUES ('a', 2), ('b', 2) ON CONFLICT (id) DO "
    await writer.execute(put + "NOTHING")
    assert await clients.more() == [("b", 2)]
    await writer.execute(put + "UPDATE SET user_id = excluded.user_id")
    assert await clients.more() == [("gone", "a", 1), ("a", 2), ("b", 2)]
    await writer.execute(
        "MERGE INTO clients USING (VALUES ('a'), ('z')) AS given (id) ON given.id = clients.id "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, user_id) VALUES (given.id, 3)"
    )
    assert await clients.more() == [("gone", "a", 2), ("z", 3)]


async def test_all_in_one_transaction_ends_as_it_is(writer, clients):
    """The removals of a transaction are told before its rows."""
    await writer.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1), ('b', 1), ('c', 1)")
    await clients.more()
    async with writer.transaction():
        await writer.execute("DELETE FROM clients WHERE id = 'a'")
        await writer.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1), ('d', 1)")
        await writer.execute("UPDATE clients SET user_id = 2 WHERE id = 'b'")
        await writer.execute("UPDATE clients SET user_id = 1 WHERE id = 'b'")
        await writer.execute("DELETE FROM clients WHERE id IN ('c', 'd')")
    gone = [
        ("gone", "a", 1),
        ("gone", "b", 1),
        ("gone", "b", 2),
        ("gone", "c", 1),
        ("gone", "d", 1),
    ]
    assert await clients.more() == [*gone, ("a", 1), ("b", 1)]


async def test_copy(writer, logs):
    async with writer.cursor().copy("COPY logs (user_id, message) FROM STDIN") as copy:
        for number in range(50):
            await copy.write_row((number, "m"))
    assert [user for _, user in await logs.more()] == list(range(50))


async def test_what_a_client_writes_into_the_columns_is_put_right(writer, logs, clients):
    await writer.execute("INSERT INTO logs (user_id, headwater_change) VALUES (1, '3'), (2, NULL)")
    await writer.execute(
        "INSERT INTO logs (user_id, headwater_order, headwater_change) "
        "VALUES (3, 0, DEFAULT), (4, NULL, '99999999999')"
    )
    assert [user for _, user in await logs.more()] == [1, 2, 3, 4]
    await writer.execute("UPDATE logs SET headwater_change = pg_current_xact_id()")
    await writer.execute("UPDATE logs SET headwater_order = 1")
    assert await logs.more() == []
    await writer.execute("CREATE TABLE copies AS SELECT * FROM logs")
    await writer.execute("UPDATE copies SET id = id + 10")
    await writer.execute("INSERT INTO logs SELECT * FROM copies")
    assert [user for _, user in await logs.more()] == [1, 2, 3, 4]
    await writer.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    await clients.more()
    await writer.execute("UPDATE clients SET headwater_change = '3', headwater_order = 7")
    assert await clients.more() == [("a", 1)]


async def test_cascades_count(writer, clients):
    await writer.execute("CREATE TABLE owners (id text PRIMARY KEY)")
    await writer.execute("INSERT INTO owners VALUES ('a')")
    await writer.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    await writer.execute(
        "ALTER TABLE clients ADD FOREIGN KEY (id) REFERENCES owners "
        "ON DELETE CASCADE ON UPDATE CASCADE"
    )
    await clients.more()
    await writer.execute("UPDATE owners SET id = 'b'")
    assert await clients.more() == [("gone", "a", 1), ("b", 1)]
    await writer.execute("DELETE FROM owners")
    assert await clients.more() == [("gone", "b", 1)]


async def test_who_switches_ordinary_triggers_off_is_told_too(writer, clients):
    """As what applies a logical replication does."""
    await writer.execute("SET session_replication_role = replica")
    await writer.execute("INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    await writer.execute("UPDATE clients SET user_id = 2")
    assert await clients.more() == [("gone", "a", 1), ("a", 2)]
    await writer.execute("DELETE FROM clients")
    assert await clients.more() == [("gone", "a", 2)]


async def test_a_role_that_may_write_the_table_needs_no_other_right(writer, clients, logs):
    await writer.execute("DROP ROLE IF EXISTS plain")
    await writer.execute("CREATE ROLE plain")
    await writer.execute("GRANT ALL ON clients, logs TO plain")
    await writer.execute("GRANT USAGE ON SEQUENCE logs_id_seq TO plain")
    await writer.execute("SET ROLE plain")
    # And wherever it looks for names first.
    await writer.execute("SET search_path = pg_catalog")
    await writer.execute("INSERT INTO public.logs (user_id) VALUES (1)")
    await writer.execute("INSERT INTO public.clients (id, user_id) VALUES ('a', 1)")
    await writer.execute("UPDATE public.clients SET user_id = 2")
    await writer.execute("DELETE FROM public.clients")
    assert await logs.more() == [(1, 1)]
    assert await clients.more() == [("gone", "a", 1), ("gone", "a", 2)]
    await writer.execute("TRUNCATE public.clients")
    await writer.execute("RESET ROLE")
    await writer.execute("DROP OWNED BY plain")
    await writer.execute("DROP ROLE plain")


async def test_truncate_is_a_reset(engine, writer):
    table, sink = Table(engine, Log), Recorder()
    await table.origin.attach(sink)
    await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
    await sink.count(1)
    page = await table.where().page(1)
    async with writer.transaction():
        await writer.execute("INSERT INTO logs (user_id) VALUES (2)")
        await writer.execute("TRUNCATE logs")
        await writer.execute("INSERT INTO logs (user_id) VALUES (3)")
    await sink.until(lambda sink: sink.resets)
    assert [reason for reason, _ in sink.resets] == ["unknown"]
    fresh = await table.where().page(5)
    assert fresh.epoch != page.epoch
    assert [change.item["user_id"] for change in fresh.changes] == [3]
    await table.origin.detach()


async def test_a_copy_of_the_database_is_another_epoch(postgres, engine, database, writer):
    await writer.execute("INSERT INTO logs (user_id) VALUES (1)")
    page = await Table(engine, Log).where().page(1)
    await engine.dispose()
    await writer.close()
    copy = postgres.database(template=database)
    other = create_async_engine(postgres.url(copy))
    table = Table(other, Log)
    assert (await table.where().page(1)).epoch != page.epoch
    async with other.begin() as connection:
        await connection.execute(text("INSERT INTO logs (user_id) VALUES (2)"))
    assert len((await table.where().page(5)).changes) == 2
    await other.dispose()
    postgres.drop(copy)


async def test_renewing_epochs_resets_all_tables_or_some(engine, writer):
    tables = [Table(engine, Log), Table(engine, Client)]
    before = [(await table.where().page(1)).epoch for table in tables]
    async with engine.begin() as connection:
        await connection.run_sync(renew_epochs, ["logs"])
    after = [(await table.where().page(1)).epoch for table in tables]
    assert after[0] != before[0]
    assert after[1] == before[1]


async def test_wide_updates_of_a_keyed_table_are_not_slow(writer, clients):
    """Ten thousand rows in one statement; triggers of another kind would take minutes."""
    await writer.execute(
        "INSERT INTO clients (id, user_id) SELECT g, 1 FROM generate_series(1, 10000) g"
    )
    async with asyncio.timeout(20):
        await writer.execute("UPDATE clients SET user_id = 2")
        await writer.execute("DELETE FROM clients")
