"""The law: whatever happens to the schema, a client ends with the rows that the table has.

Writers go on meanwhile and none of their statements fails. A client gets each change, or a reset.
"""

import asyncio
import random
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.errors import PositionError, SourceUnavailableError
from headwater.sql import Table, postgresql_engine, sqlite_engine, track
from headwater.sql.alembic import add_tracking
from support.tables import Recorder


class Base(DeclarativeBase):
    pass


class Columns:
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[int]
    version: Mapped[int]


@track(keyed=True, filters=("owner",))
class Thing(Columns, Base):
    __tablename__ = "things"


class Apart(DeclarativeBase):
    pass


@track(keyed=True, filters=("owner",))
class Part(Columns, Apart):
    """The same with partitions."""

    __tablename__ = "things"
    __table_args__ = {"postgresql_partition_by": "RANGE (id)"}


RANGE = "FOR VALUES FROM ({0}) TO ({0} + 10)"
PARTS = (
    *(f"CREATE TABLE part_{n} PARTITION OF things {RANGE.format(n)}" for n in (0, 10, 20)),
    "CREATE TABLE part_rest PARTITION OF things DEFAULT",
)


WRITES = (
    "INSERT INTO things (id, owner, version) VALUES (:id, :owner, :version) ON CONFLICT DO NOTHING",
    "INSERT INTO things (id, owner, version) VALUES (:id, :owner, :version) "
    "ON CONFLICT (id) DO UPDATE SET version = :version",
    "UPDATE things SET version = :version WHERE id = :id",
    "UPDATE things SET owner = :owner WHERE id = :id",
    "DELETE FROM things WHERE id = :id",
)
BOTH = (
    ("ALTER TABLE things ADD COLUMN extra INTEGER",),
    ("ALTER TABLE things DROP COLUMN extra",),
    ("ALTER TABLE things RENAME COLUMN extra TO more", "ALTER TABLE things RENAME more TO extra"),
    ("CREATE INDEX by_version ON things (version)",),
    ("DROP INDEX by_version",),
)
SQLITE = (
    *BOTH,
    ("CREATE UNIQUE INDEX by_text ON things (id, abs(owner))",),
    ("DROP INDEX by_text",),
    ("DROP TRIGGER headwater_things_delete",),
    ("DROP TRIGGER headwater_things_update",),
)
POSTGRESQL = (
    *BOTH,
    ("ALTER TABLE things ALTER COLUMN version TYPE bigint",),
    ("ALTER TABLE things ALTER COLUMN version TYPE integer",),
    ("ALTER TABLE things ALTER COLUMN owner TYPE bigint",),
    ("ALTER TABLE things DISABLE TRIGGER ALL", "ALTER TABLE things ENABLE TRIGGER ALL"),
    ("DROP TRIGGER headwater_things_deleted ON things",),
    # At once: writers would not find it.
    ("ALTER TABLE things RENAME TO others; ALTER TABLE others RENAME TO things",),
)

PARTITIONS = (
    *BOTH[:3],
    *((f"ALTER TABLE things DETACH PARTITION part_{n}",) for n in (0, 10)),
    # Refused while the rest has rows of the range.
    *((f"ALTER TABLE things ATTACH PARTITION part_{n} {RANGE.format(n)}",) for n in (0, 10)),
    ("TRUNCATE part_20",),
    ("DELETE FROM part_rest", *(f"ALTER TABLE things ATTACH PARTITION part_{n} {RANGE.format(n)}"
                                for n in (0, 10))),
    ("ALTER TABLE things ALTER COLUMN version TYPE bigint",),
    ("ALTER TABLE things ALTER COLUMN version TYPE integer",),
    ("DROP TRIGGER headwater_things_deleted ON things",),
)  # fmt: skip


class Client:
    """Reads pages after its position, as a client that resumes does."""

    def __init__(self, table):
        self.table = table
        self.rows = {}
        self.place = None
        self.resets = -1
        self.refused = 0

    async def recovers(self):
        """Seconds until a page can be read again."""
        began = time.perf_counter()
        async with asyncio.timeout(5):
            while True:
                refused = self.refused
                await self.read()
                if refused == self.refused:
                    return time.perf_counter() - began

    async def read(self):
        """One page. Returns whether there may be more."""
        try:
            if self.place is None:
                page = await self.table.where().page(1000)
                self.rows, self.resets = {}, self.resets + 1
            else:
                await self.table.where().locate(self.epoch, str(self.place))
                page = await self.table.where().page(20, after=self.place)
                if page.epoch != self.epoch:
                    raise PositionError(str(self.place), "unknown")
        except PositionError:
            self.place = None
            return True
        except SourceUnavailableError:
            self.refused += 1
            await asyncio.sleep(0.02)  # the pace of the changes
            return True
        for change in page.changes:
            self.rows.pop(change.key["id"], None)
            if not change.removed:
                self.rows[change.key["id"]] = change.item
        self.place, self.epoch = page.end, page.epoch
        return page.has_more and bool(page.changes)


LONG = [pytest.param(each, marks=pytest.mark.long) for each in ("postgresql", "partitions")]


@pytest.fixture(params=["sqlite", *LONG])
async def world(request, tmp_path):
    """An engine, the model and the changes of its schema."""
    model, changes = Thing, SQLITE if request.param == "sqlite" else POSTGRESQL
    if request.param == "partitions":
        model, changes = Part, PARTITIONS
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
        drop = None
    else:
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        engine = postgresql_engine(postgres.url(name), pool_size=8)
        drop = postgres.drop
    async with engine.begin() as connection:
        await connection.run_sync(model.metadata.create_all)
        for each in PARTS if model is Part else ():
            await connection.exec_driver_sql(each)
    yield engine, model, changes
    await engine.dispose()
    if drop is not None:
        drop(name)


async def write(engine, choose, stopping):
    count = 0
    while not stopping.is_set():
        values = {"id": choose.randrange(30), "owner": choose.randrange(3), "version": count}
        async with engine.begin() as connection:
            await connection.execute(sa.text(choose.choice(WRITES)), values)
        count += 1
        await asyncio.sleep(0.002)  # the pace of the writers
    return count


async def change_schema(engine, change):
    for sql in change:
        try:
            async with engine.begin() as connection:
                await connection.execute(sa.text(sql))
        except sa.exc.DBAPIError:
            return  # there is no such column or index just now, or there is one already


async def mend(engine):
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, "things", keyed=True, filters=["owner"])


async def law(world, seed, rounds):
    """Returns the seconds until a page could be read again, of each mending."""
    engine, model, changes = world
    choose, stopping = random.Random(seed), asyncio.Event()
    table, sink = Table(engine, model), Recorder()
    await table.origin.attach(sink)
    writers = [asyncio.create_task(write(engine, random.Random(n), stopping)) for n in (1, 2)]
    client, recovered = Client(table), []
    for _ in range(rounds):
        if choose.random() < 0.7:
            await change_schema(engine, choose.choice(changes))
        else:
            await mend(engine)
            recovered.append(await client.recovers())
        for _ in range(choose.randrange(6)):
            await client.read()
    await mend(engine)
    stopping.set()
    # None of them failed.
    assert all([await writer for writer in writers])
    async with engine.connect() as connection:
        found = await connection.execute(sa.text("SELECT id, owner, version FROM things"))
        wanted = {row.id: dict(row._mapping) for row in found}
    async with asyncio.timeout(10):
        while client.rows != wanted or client.place is None:
            await client.read()
    async with engine.begin() as connection:
        await connection.execute(sa.text("DELETE FROM things"))
        await connection.execute(sa.text(WRITES[0]), {"id": 99, "owner": 1, "version": 1})
    end = (await table.where().page(1)).end
    # The tail gets there too, by the change or by a reset.
    await sink.until(
        lambda sink: (
            any(change.key == {"id": 99} for change in sink.changes[-1:])
            or any(place.includes(end) for _, place in sink.resets)
        )
    )
    await table.origin.detach()
    return recovered


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_client_ends_with_the_rows_of_the_table(world, seed):
    await law(world, seed, 12)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 40))
async def test_a_client_ends_with_the_rows_of_the_table_for_long(world, seed):
    recovered = await law(world, seed, 60)
    print(f"mended {len(recovered)} times, read again after {max(recovered):.2f} s at most")
