"""The database's own values count, where the model's type says less than the table's."""

from __future__ import annotations

import enum
import math
from datetime import UTC, datetime, time, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BIT, INET
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.delivery._hub import Hub
from headwater.sql import LiveQuery, sqlite_engine, track_table
from headwater.sql._model import TypeOf
from sql.query.shop import write
from support.until import until

DRIVERS = ["psycopg", pytest.param("asyncpg", marks=pytest.mark.long)]


def notes(**columns) -> sa.Table:
    made = [sa.Column(name, kind, primary_key=name == "id") for name, kind in columns.items()]
    table = sa.Table("notes", sa.MetaData(), *made)
    track_table(table, keyed=True)
    return table


@pytest.fixture(params=DRIVERS)
async def engine(request, postgres):
    name = postgres.database()
    url = sa.make_url(postgres.url(name)).set(drivername=f"postgresql+{request.param}")
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()
    postgres.drop(name)


async def test_values_that_do_not_fit_the_type_of_the_model(engine):
    table = notes(id=sa.Integer, code=sa.String(3), size=sa.Numeric(10, 2), rank=sa.SmallInteger)
    wider = notes(id=sa.BigInteger, code=sa.Text, size=sa.Numeric, rank=sa.Integer)
    query, _ = (
        LiveQuery(engine, sa.select(each).where(each.c.size > 0), key=["id"], where=["code"])
        for each in (table, wider)
    )
    async with engine.begin() as connection:
        await connection.run_sync(wider.metadata.create_all)
    row = f"({2**40}, 'abcdef', 0.001, 70000)"
    await write(engine, sa.text(f"INSERT INTO notes (id, code, size, rank) VALUES {row}"))
    source = query.where(code="abcdef")
    page = await source.page(9)
    assert [change.key for change in page.changes] == [{"id": 2**40}]
    await write(engine, sa.text("DELETE FROM notes"))
    page = await source.page(9, after=page.end)
    assert [(change.key, change.removed) for change in page.changes] == [({"id": 2**40}, True)]


async def test_a_condition_on_an_array(engine):
    table = notes(id=sa.Integer, words=ARRAY(sa.Text))
    query = LiveQuery(
        engine, sa.select(table.c.id).where(table.c.words.contains(["a"])), key=["id"]
    )
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    await write(engine, sa.insert(table).values([{"id": n, "words": ["a", "b"]} for n in (1, 2)]))
    page = await query.where().page(9)
    assert len(page.changes) == 2
    await write(engine, sa.update(table).where(table.c.id == 1).values(words=["b"]))
    await write(engine, sa.delete(table).where(table.c.id == 2))
    page = await query.where().page(9, after=page.end)
    assert [(change.key["id"], change.removed) for change in page.changes] == [(1, True), (2, True)]


class Mood(enum.Enum):
    good = 1
    bad = 2


@pytest.mark.parametrize("engine", ["psycopg"], indirect=True)
@pytest.mark.parametrize("kind", ["varchar(9)", "feeling"])
async def test_an_enum_of_the_model_may_be_another_type_in_the_table(engine, kind):
    table, own = (
        notes(id=sa.Integer, mood=each) for each in (sa.Enum(Mood, name="mood"), TypeOf(kind))
    )
    query, _ = (
        LiveQuery(engine, sa.select(each), key=["id"], where=["mood"]) for each in (table, own)
    )
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TYPE feeling AS ENUM ('good', 'bad')")
        await connection.run_sync(own.metadata.create_all)
    sources = [query.where(table.c.mood != Mood.bad), query.where(mood=Mood.good)]
    hub, got = Hub(), []
    try:
        for source in sources:
            await hub.subscribe(source, got.extend)
        for statement in (
            "INSERT INTO notes (id, mood) VALUES (1, 'good'), (2, 'bad')",
            "UPDATE notes SET mood = 'bad'",
        ):
            before = len(got)
            await write(engine, sa.text(statement))
            await until(lambda before=before: len(got) == before + 2)
        told = [(each.key["id"], each.removed) for each in got]
        assert told == [(1, False), (1, False), (1, True), (1, True)]
    finally:
        await hub.close()


@pytest.mark.parametrize("kind", [sa.Date(), sa.DateTime(), sa.DateTime(timezone=True)], ids=repr)
async def test_a_key_with_an_infinite_date_stops_nothing(engine, kind):
    table = sa.Table(
        "notes",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("until", kind, primary_key=True),
    )
    track_table(table, keyed=True)
    query = LiveQuery(engine, sa.select(table), key=["until", "id"])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    source, days = query.where(), ["-infinity", "2026-01-02", "infinity"]
    rows = ", ".join(f"({n}, '{day}')" for n, day in enumerate(days))
    page = await source.page(9)
    await write(engine, sa.text(f"INSERT INTO notes (id, until) VALUES {rows}"))
    shown: list[int] = []
    while page.has_more or not shown:
        page = await source.page(1, after=await source.locate(page.epoch, str(page.end)))
        shown += [change.item["id"] for change in page.changes]
    assert shown == [0, 1, 2]
    assert [change.item["id"] for change in (await source.page(2)).changes] == [1, 2]
    await write(engine, sa.text("DELETE FROM notes"))
    gone = await source.page(9, after=page.end)
    assert [(change.key["id"], change.removed) for change in gone.changes] == [
        (0, True),
        (1, True),
        (2, True),
    ]


@pytest.mark.parametrize(
    "setting",
    ["datestyle=German", "intervalstyle=sql_standard", "extra_float_digits=-10",
     "quote_all_identifiers=on"],
)  # fmt: skip
async def test_settings_of_sessions_change_nothing(engine, setting):
    kinds = {"size": sa.Double, "at": sa.DateTime(timezone=True), "wait": sa.Interval}
    table = notes(id=sa.Integer, **kinds)
    query = LiveQuery(engine, sa.select(table), key=["id"], where=[*kinds])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
        await connection.exec_driver_sql(f"ALTER DATABASE {engine.url.database} SET {setting}")
    await engine.dispose()
    row = {"size": 0.1 + 0.2, "at": datetime(2026, 3, 4, tzinfo=UTC)}
    row["wait"] = timedelta(days=-1, hours=2, microseconds=5)
    page = await query.where().page(9)
    await write(engine, table.insert().values(id=1, **row))
    page = await query.where().page(9, after=page.end)
    assert [dict(change.item) for change in page.changes] == [{"id": 1, **row}]
    sources = [query.where(**{name: value}) for name, value in row.items()]
    hub, got = Hub(), []
    try:
        for source in sources:
            await hub.subscribe(source, got.extend)
        await write(engine, table.delete())
        await until(lambda: len(got) == len(sources))
    finally:
        await hub.close()
    assert [change.removed for change in got] == [True] * len(sources)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (sa.LargeBinary(), [bytes(range(256)), b"", b"\xff"]),
        (sa.Double(), [0.1 + 0.2, math.inf, -math.inf]),
        (sa.Text(), ["\ue000'\"\\", "", "[]"]),
    ],
    ids=["blob", "real", "text"],
)
async def test_links_on_sqlite_lose_nothing_of_a_value(tmp_path, kind, values):
    metadata, engine = sa.MetaData(), sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    tags = sa.Table("tags", metadata, sa.Column("tag", kind, primary_key=True))
    words = sa.Table(
        "words", metadata, sa.Column("id", sa.Integer, primary_key=True), sa.Column("tag", kind)
    )
    for table in (tags, words):
        track_table(table, keyed=True)
    joined = sa.select(words).join(tags, words.c.tag == tags.c.tag)
    query = LiveQuery(engine, joined, key=["id"], where=["tag"])
    try:
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
            await connection.execute(tags.insert(), [{"tag": each} for each in values])
            rows = [{"id": n, "tag": each} for n, each in enumerate([*values, None])]
            await connection.execute(words.insert(), rows)
        sources = [query.where(), query.where(tag=values[0])]
        pages = [await source.page(9) for source in sources]
        assert [len(page.changes) for page in pages] == [3, 1]
        first = words.delete().where(words.c.id == 0)
        for statement, gone in ((first, [0]), (tags.delete(), [1, 2])):
            await write(engine, statement)
            pages = [await s.page(9, after=p.end) for s, p in zip(sources, pages, strict=True)]
            found = [[c.key["id"] for c in page.changes if c.removed] for page in pages]
            assert found == [gone, [n for n in gone if n == 0]]
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("kind", "value", "stored", "found"),
    [
        (INET, "10.0.0.1", "10.0.0.1/32", True),
        (BIT(4), "1010", "1010", True),
        (sa.REAL, 0.1, "0.1", False),
        (sa.Time(timezone=True), time(12, tzinfo=UTC), "14:00+02", False),
    ],
    ids=["inet", "bit", "real", "time"],
)
async def test_the_database_says_what_equals_a_value(engine, kind, value, stored, found):
    table = notes(id=sa.Integer, value=kind)
    query = LiveQuery(engine, sa.select(table), key=["id"], where=["value"])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    source, hub, got = query.where(value=value), Hub(), []
    page, every = await source.page(9), []
    await hub.subscribe(source, got.extend)
    await hub.subscribe(query.where(), every.extend)
    try:
        for at, statement in enumerate(
            (f"INSERT INTO notes (id, value) VALUES (1, '{stored}')", "DELETE FROM notes")
        ):
            await write(engine, sa.text(statement))
            await until(lambda at=at: len(every) == at + 1)
            page = await source.page(9, after=page.end)
            assert len(page.changes) == found
            assert len(got) == found * (at + 1)
    finally:
        await hub.close()


async def test_a_link_of_a_type_without_equality(engine):
    table = notes(id=sa.Integer, extra=sa.JSON(none_as_null=True))
    query = LiveQuery(engine, sa.select(table).where(table.c.extra.is_not(None)), key=["id"])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    page = await query.where().page(9)
    for extra, changes in (({"a": 1}, [False]), ({"a": 2}, [False]), (None, [True])):
        await write(engine, sa.text("INSERT INTO notes (id) VALUES (1) ON CONFLICT DO NOTHING"))
        await write(engine, table.update().values(extra=extra))
        page = await query.where().page(9, after=page.end)
        assert [change.removed for change in page.changes] == changes
