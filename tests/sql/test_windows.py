"""A row leaves a time window by the clock, while others delete, move and write it.

A client resumes from any place of any page. Whatever was written between its place and the read of
that page, it ends with the rows that are in the window.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.errors import DeclarationError
from headwater.sql import Table, sqlite_engine, track_table
from support.tables import START, Base, Client, Clock, Recorder

LENGTH = timedelta(minutes=10)
KEYS = "abcdef"

minutes = st.integers(-12, 0)
writes = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "delete", "delete", "touch"]),
        st.sampled_from(KEYS),
        st.integers(1, 2),
        minutes,
    ),
    max_size=6,
)
steps = st.tuples(
    writes,
    st.sampled_from([0, 60, 299, 480]),
    st.integers(1, 4),
    st.none() | st.integers(1, 4),
)


class Rig:
    """The table of one database, and what runs coroutines with it."""

    def __init__(self, runner, engine):
        self.runner, self.engine = runner, engine
        self.tables = {"prompt": Table(engine, Client)}
        if engine.dialect.name == "postgresql":
            self.tables["total"] = Table(engine, Client, order="total")
        self.clock = Clock()
        for table in self.tables.values():
            table.reader.clock = self.clock

    async def write(self, connection, what, key, user=1, ago=0):
        rows = Client.__table__
        seen = self.clock.now + timedelta(minutes=ago)
        if what == "delete":
            await connection.execute(rows.delete().where(rows.c.id == key))
        elif what == "touch":
            await connection.execute(rows.update().where(rows.c.id == key).values(seen_at=seen))
        else:
            found = await connection.scalar(sa.select(rows.c.id).where(rows.c.id == key))
            values = {"user_id": user, "seen_at": seen}
            if found is None:
                await connection.execute(rows.insert().values(id=key, **values))
            else:
                await connection.execute(rows.update().where(rows.c.id == key).values(values))

    async def commit(self, *changes):
        """Each in a transaction of its own."""
        for change in changes:
            async with self.engine.begin() as connection:
                await self.write(connection, *change)

    async def clear(self):
        async with self.engine.begin() as connection:
            await connection.execute(Client.__table__.delete())


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
)
def rig(request, tmp_path_factory):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('windows') / 'data.db'}"
    else:
        postgres = request.getfixturevalue("postgres")
        url = postgres.url(postgres.database())
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    engine.dispose()
    with asyncio.Runner() as runner:
        made = sqlite_engine(url) if request.param == "sqlite" else create_async_engine(url)
        yield Rig(runner, made)
        runner.run(made.dispose())


class Shown:
    """A client of one selection: the keys that it shows, and where it is."""

    def __init__(self, source):
        self.source = source

    async def start(self):
        page = await self.source.page(100)
        self.place, self.epoch = page.end, page.epoch
        self.keys = {change.key["id"] for change in page.changes}

    async def resume(self, limit, most=None):
        """Read one page, of which at most so many changes arrive. Whether there are more."""
        page = await self.source.page(limit, after=await self.located())
        arrived = page.changes[:most]
        for change in arrived:
            (self.keys.discard if change.removed else self.keys.add)(change.key["id"])
        whole = len(arrived) == len(page.changes)
        self.place = page.end if whole else arrived[-1].place
        return page.has_more or not whole

    async def located(self):
        place = await self.source.locate(self.epoch, str(self.place))
        assert place == self.place
        return place

    async def finish(self):
        while await self.resume(3):
            pass
        there = await self.source.page(100)
        assert self.keys == {change.key["id"] for change in there.changes}


def clients(rig):
    found = []
    for table in rig.tables.values():
        found += [Shown(table.where().within("seen_at", LENGTH))]
        found += [Shown(table.where(user_id=1).within("seen_at", LENGTH))]
    return found


async def run(rig, before, then) -> None:
    await rig.clear()
    await rig.commit(*(("put", *each) for each in before))
    shown = clients(rig)
    for client in shown:
        await client.start()
    for changes, seconds, limit, most in then:
        await rig.commit(*changes)
        rig.clock.pass_(seconds=seconds)
        for client in shown:
            await client.resume(limit, most)
    for client in shown:
        await client.finish()


def check(rig, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 2), minutes), max_size=6),
        st.lists(steps, min_size=1, max_size=4),
    )
    def law(before, then):
        rig.runner.run(run(rig, before, then))

    law()


def test_a_client_ends_with_the_rows_of_the_window(rig):
    check(rig, 8)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_client_ends_with_the_rows_of_the_window_in_many_examples(rig):
    check(rig, 1500)


def test_a_row_that_was_deleted_before_a_page_was_read_leaves_a_later_page(rig):
    """The page tells of ``b``, which left later than ``a`` would have, but ``a`` is deleted."""

    async def both(limit):
        await rig.clear()
        await rig.commit(("put", "a", 1, -9), ("put", "b", 1, -8))
        shown = clients(rig)
        for client in shown:
            await client.start()
            assert client.keys == {"a", "b"}
        await rig.commit(("put", "c"), ("put", "d"), ("delete", "a"))
        rig.clock.pass_(minutes=5)
        for client in shown:
            assert await client.resume(limit)
            await client.finish()

    for limit in (1, 2, 3):
        rig.runner.run(both(limit))


def test_a_row_that_left_and_is_deleted_then_is_removed_once(rig):
    async def once():
        await rig.clear()
        await rig.commit(("put", "a", 1, -9), ("put", "b", 1, -8))
        shown = clients(rig)
        for client in shown:
            await client.start()
        rig.clock.pass_(minutes=5)
        for client in shown:
            await client.finish()
        await rig.commit(("delete", "a"), ("delete", "b"))
        for client in shown:
            page = await client.source.page(9, after=client.place)
            assert page.changes == []

    rig.runner.run(once())


async def test_with_total_order_a_delete_that_waits_is_sent_later(postgres):
    """The read does not see the row any more, and does not send its removal yet either."""
    name = postgres.database()
    engine = create_async_engine(postgres.url(name))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    rig = Rig(None, engine)
    await rig.commit(("put", "a", 1, -9), ("put", "b", 1, -8), ("put", "z"))
    client = Shown(rig.tables["total"].where().within("seen_at", LENGTH))
    await client.start()
    async with engine.connect() as older:
        await rig.write(older, "touch", "z")
        await rig.commit(("delete", "a"))
        rig.clock.pass_(minutes=5)
        await client.resume(9)
        assert "a" in client.keys  # the older transaction may still change the order
        await older.commit()
    await client.finish()
    assert client.keys == {"z"}
    await engine.dispose()
    postgres.drop(name)


FOREVER = ["9999-12-31 23:59:59", "infinity", "20000-01-01"]
NEVER = ["0001-01-01 00:00:00", "-infinity", "0044-03-15 BC"]


@pytest.mark.parametrize("driver", ["psycopg", pytest.param("asyncpg", marks=pytest.mark.long)])
async def test_a_moment_that_python_has_not_is_before_or_after_all_others(postgres, driver):
    """Applications write such a moment for what never ends."""
    url = postgres.url(name := postgres.database())
    engine = create_async_engine(url.replace("psycopg", driver))
    await moments(engine, FOREVER, NEVER)
    postgres.drop(name)


async def test_a_moment_that_another_program_wrote_is_in_the_window_or_not(engine):
    """As JavaScript and Python's sqlite3 write them, and what is no date-time at all."""
    day = START.date()
    zones = [f"{day}T12:00:00.000Z", f"{day} 12:00:00+00:00", f"{day}T17:45:00+05:45"]
    zones += [f"{day} 07:00:00-05:00", f"{day}T12:00:00"]
    others = [f"{day}T11:00:00.000Z", f"{day} 12:00:00+01:00", "never", "infinity", "1772366400"]
    await moments(engine, FOREVER[:1] + zones, NEVER[:1] + others)


async def moments(engine, inside, outside):
    """Pages and streams have the rows with the one moments, and never those with the others."""
    table = sa.Table("ends", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    table.append_column(sa.Column("at", sa.DateTime))
    track_table(table, keyed=True)
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    ends, sink, clock = Table(engine, table), Recorder(), Clock()
    ends.reader.clock = clock
    source, began = ends.where().within("at", LENGTH), ends.reader.nothing()
    await ends.origin.attach(sink)
    async with engine.begin() as connection:
        for number, moment in enumerate([*inside, *outside]):
            await connection.exec_driver_sql(
                f"INSERT INTO ends (id, at) VALUES ({number}, '{moment}')"
            )
    wanted = set(range(len(inside)))
    assert {change.item["id"] for change in (await source.page(99)).changes} == wanted
    walked = (await source.page(99, after=began)).changes
    assert {change.key["id"] for change in walked if not change.removed} == wanted
    assert {key["id"] for key, _ in await source.members()} == wanted
    await sink.count(len(inside) + len(outside))
    has = {one.key["id"] for one in sink.changes if one.moment and one.moment + LENGTH > clock.now}
    assert has == wanted
    await ends.origin.detach()
    await engine.dispose()


def test_a_window_is_not_longer_than_the_calendar(engine):
    with pytest.raises(DeclarationError, match="at most 365,000 days"):
        Table(engine, Client).where().within("seen_at", timedelta.max)
