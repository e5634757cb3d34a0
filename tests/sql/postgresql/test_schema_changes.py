"""What administrators do to a followed table: no write fails, and no stream is left behind."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.errors import DeclarationError, PositionError
from headwater.sql import Table, track
from headwater.sql.alembic import add_tracking
from support.tables import Client, Log, Recorder, fails

pytestmark = pytest.mark.long


async def run(engine, *statements):
    async with engine.begin() as connection:
        for sql in statements:
            await connection.execute(sa.text(sql))


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_type_that_changes_under_pooled_connections(postgres, database, driver):
    url = sa.make_url(postgres.url(database)).set(drivername=f"postgresql+{driver}")
    engine = create_async_engine(url, pool_size=10)
    table, sink = Table(engine, Log), Recorder()
    await table.origin.attach(sink)
    for _ in range(10):
        await asyncio.gather(*(table.where().page(1) for _ in range(8)))
    await run(engine, "ALTER TABLE logs ALTER COLUMN user_id TYPE bigint")
    await asyncio.gather(*(table.where().page(1) for _ in range(8)))
    await run(engine, "INSERT INTO logs (user_id) VALUES (8)")
    await sink.count(1)
    assert sink.resets == []
    await table.origin.detach()
    await engine.dispose()


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE clients DROP COLUMN seen_at",
        "ALTER TABLE clients RENAME COLUMN seen_at TO last_seen",
        "ALTER TABLE clients ALTER COLUMN id TYPE varchar(90)",
        "ALTER TABLE clients ALTER COLUMN team_id TYPE bigint",
        "ALTER TABLE clients DROP COLUMN team_id CASCADE",
        "ALTER TABLE clients RENAME COLUMN id TO key",
    ],
)
async def test_no_write_fails_when_a_column_changes(engine, change):
    await run(engine, "INSERT INTO clients (id, user_id) VALUES ('a', 1), ('b', 1)", change)
    await run(engine, "UPDATE clients SET user_id = 2", "DELETE FROM clients")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE clients ALTER COLUMN team_id TYPE integer USING team_id + 1",
        "ALTER TABLE clients ALTER COLUMN name TYPE text USING upper(name)",
    ],
)
async def test_values_that_come_with_another_type_are_a_reset(engine, change):
    """No trigger fires, and an open stream has the former values."""
    await run(engine, "INSERT INTO clients (id, user_id, name) VALUES ('a', 1, 'x')")
    source, sink = Table(engine, Client).where(), Recorder()
    await source.origin.attach(sink)
    page = await source.page(1)
    await run(engine, change)
    await sink.until(lambda sink: sink.resets, seconds=4)
    assert sink.resets[0][0] == "unknown"
    with pytest.raises(PositionError):
        await source.locate(page.epoch, str(page.end))
    await source.origin.detach()


async def test_a_type_that_changes_no_value_is_no_reset(engine):
    await run(engine, "INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    source = Table(engine, Client).where()
    page = await source.page(1)
    await run(engine, "ALTER TABLE clients ALTER COLUMN name TYPE text")
    await source.locate(page.epoch, str(page.end))


async def test_triggers_that_were_disabled_and_enabled(engine):
    """``pg_restore --disable-triggers`` does the same."""
    table, sink = Table(engine, Client), Recorder()
    await run(engine, "INSERT INTO clients (id, user_id) VALUES ('a', 1)")
    await table.origin.attach(sink)
    await run(engine, "ALTER TABLE clients DISABLE TRIGGER ALL", "DELETE FROM clients",
              "ALTER TABLE clients ENABLE TRIGGER ALL")  # fmt: skip
    await fails(table, "is not enabled for all writers")
    async with engine.begin() as connection:
        await connection.run_sync(
            add_tracking, "clients", keyed=True, filters=["user_id", "team_id"]
        )
    await sink.until(lambda sink: sink.resets)
    assert (await table.where().page(1)).changes == []
    await table.origin.detach()


async def test_tables_that_inherit_are_refused(engine):
    table = Table(engine, Log)
    await table.where().page(1)
    await run(engine, "CREATE TABLE more_logs () INHERITS (logs)")
    await fails(table, "INHERITS")
    async with engine.begin() as connection:
        with pytest.raises(DeclarationError, match="INHERITS"):
            await connection.run_sync(add_tracking, "logs")


class Base(DeclarativeBase):
    pass


@track()
class Reading(Base):
    __tablename__ = "readings"
    __table_args__ = {"postgresql_partition_by": "RANGE (id)"}
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int]


@pytest.fixture
async def readings(engine):
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await run(engine, *(
        f"CREATE TABLE readings_{n} PARTITION OF readings FOR VALUES FROM ({n}00) TO ({n}99)"
        for n in (1, 2)
    ), "INSERT INTO readings VALUES (101, 1), (201, 1)")  # fmt: skip
    table = Table(engine, Reading)
    yield table
    await table.origin.detach()


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE readings_1",
        "DROP TABLE readings_1",
        "ALTER TABLE readings DETACH PARTITION readings_1",
        "CREATE TABLE filled (LIKE readings INCLUDING ALL);"
        "INSERT INTO filled (id, value) VALUES (301, 1);"
        "ALTER TABLE readings ATTACH PARTITION filled FOR VALUES FROM (300) TO (399)",
    ],
)
async def test_partitions_that_come_and_go_are_a_reset(engine, readings, change):
    sink = Recorder()
    await readings.origin.attach(sink)
    await run(engine, *change.split(";"))
    await sink.until(lambda sink: sink.resets, seconds=4)
    assert sink.resets[0][0] == "unknown"


async def test_a_row_that_moves_between_partitions_is_not_sent_again(engine, readings):
    sink = Recorder()
    await readings.origin.attach(sink)
    await run(engine, "UPDATE readings SET id = id + 101, value = 2 WHERE id = 101")
    await run(engine, "UPDATE readings SET value = 3")
    await run(engine, "INSERT INTO readings VALUES (150, 9)")
    await sink.count(1)
    assert [change.item["id"] for change in sink.changes] == [150]


async def test_an_insert_into_a_partition_by_name_is_soon_there(engine, readings):
    """Its statement trigger is not that of the table."""
    sink = Recorder()
    await readings.origin.attach(sink)
    await asyncio.sleep(1.5)  # until it listens and polls seldom
    await run(engine, "INSERT INTO readings_2 VALUES (250, 1)")
    await sink.until(lambda sink: sink.changes, seconds=2)


async def test_a_schema_for_each_customer_by_engines_of_one_address(postgres):
    """Their connections differ in the search_path alone, and each looks at its own table."""
    engines, tables = [], []
    url = postgres.url(database := postgres.database())
    for name in ("one", "two"):
        path = {"options": f"-c search_path={name}"}
        engines.append(create_async_engine(url, connect_args=path))
        async with engines[-1].begin() as connection:
            await connection.exec_driver_sql(f"CREATE SCHEMA {name}")
            await connection.run_sync(Log.metadata.create_all)
        tables.append(Table(engines[-1], Log))
        await tables[-1].origin.attach(Recorder())
        await tables[-1].where().page(1)
    await run(engines[1], "ALTER TABLE logs DISABLE TRIGGER headwater_logs_update")
    await fails(tables[1], "'headwater_logs_update' is not enabled")
    await tables[0].where().page(1)
    for table, engine in zip(tables, engines, strict=True):
        await table.origin.detach()
        await engine.dispose()
    postgres.drop(database)
