"""``where()`` with SQLAlchemy expressions: pages and streams agree, on both databases."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy import and_, func, not_, or_, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError
from headwater.feeds._feed import Feed
from headwater.feeds._source import Filter
from headwater.sql import Table, sqlite_engine, track, track_table
from headwater.sql.alembic import add_tracking
from support.streams import StreamClient
from support.until import until

START = datetime(2026, 3, 1, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


@track(keyed=True, filters=("team", "price", "name", "level", "at", "open"))
class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    team: Mapped[int]
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2, asdecimal=False))
    name: Mapped[str | None]
    level: Mapped[str] = mapped_column(sa.Enum("info", "error", name="job_level"))
    at: Mapped[datetime] = mapped_column(sa.DateTime)
    open: Mapped[bool]
    note: Mapped[str | None]


@track()
class Log(Base):
    __tablename__ = "job_logs"

    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]


J = Job
CONDITIONS = [
    (J.price > 5,),
    (J.price.between(2, 7), J.team == 1),
    (J.level != "info",),
    (J.name.like("a%"),),
    (J.name.is_(None),),
    (J.name.in_(["ab", "b", None]),),
    (J.name.not_in(["ab", "b"]),),
    (or_(J.team == 2, J.price < 3),),
    (not_(or_(J.price > 3, J.name == "b")),),
    (and_(J.open, J.at >= (START + timedelta(hours=5)).replace(tzinfo=None)),),
    (func.lower(J.name) == "ab", ~J.open),
    (J.name.startswith("a_", autoescape=True),),
    (J.name.ilike("A%"), func.length(J.name) > 1),
    (J.level.in_(["error"]), J.open == True),  # noqa: E712 - as many write it
    (J.team.in_([]),),
    (J.team.not_in([]),),
    (J.price > J.team,),
]


POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.long)
# SQLite compares values of all types.
on_postgresql = pytest.mark.parametrize("engine", [POSTGRESQL], indirect=True)


@pytest.fixture(params=["sqlite", POSTGRESQL])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
        name = None
    else:
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        engine = create_async_engine(postgres.url(name))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()
    if name is not None:
        request.getfixturevalue("postgres").drop(name)


async def write(engine, *statements):
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(statement)


def random_values(pick):
    return {
        "team": pick.randint(1, 3),
        "price": pick.choice([None, 0.5, 1, 3, 5, 7.25, 9]),
        "name": pick.choice([None, "ab", "AB", "b", "a_", "A%"]),
        "level": pick.choice(["info", "error"]),
        "at": (START + timedelta(hours=pick.randint(0, 9))).replace(tzinfo=None),
        "open": pick.random() < 0.5,
        "note": pick.choice([None, "x", "y"]),
    }


def statement(pick, numbers):
    roll, key = pick.random(), pick.randint(1, 12)
    if roll < 0.4:
        return sa.insert(Job).values(id=100 + next(numbers), **random_values(pick))
    if roll < 0.85:
        values = random_values(pick)
        some = {name: values[name] for name in pick.sample(sorted(values), pick.randint(1, 4))}
        return sa.update(Job).where(Job.id % 12 == key).values(**some)
    return sa.delete(Job).where(Job.id % 12 == key)


async def expected(engine, conditions):
    async with engine.connect() as connection:
        return set(await connection.scalars(select(Job.id).where(*conditions)))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
async def test_streams_that_come_and_go_show_what_the_database_selects(engine, seed):
    await follow(engine, seed, 25)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
async def test_many_more_changes(engine, seed):
    await follow(engine, seed, 200)


async def follow(engine, seed, steps):
    pick, numbers = random.Random(seed), itertools.count()
    await write(engine, *(statement(pick, numbers) for _ in range(10)))
    feed = Feed("jobs", collection="jobs", event="job")
    sides = [(Hub(), Table(engine, Job)) for _ in range(2)]
    clients = [(StreamClient(feed), conditions) for conditions in CONDITIONS]
    try:
        for step in range(steps):
            client, conditions = pick.choice(clients) if step >= len(clients) else clients[step]
            client.leave(pick.choice([None, None, 0, 1, 2]))
            hub, table = pick.choice(sides)
            some = [statement(pick, numbers) for _ in range(pick.randint(1, 3))]
            source = table.where(*conditions)
            await asyncio.gather(write(engine, *some), client.connect(hub, source))
        for client, conditions in clients:
            ids = await expected(engine, conditions)
            page = await sides[0][1].where(*conditions).page(500)
            assert {change.item["id"] for change in page.changes} == ids

            def settled(client=client, ids=ids):
                client.read()
                return set(client.items) == ids

            try:
                await until(settled)
            except TimeoutError:
                wrong = {"too many": set(client.items) - ids, "missing": ids - set(client.items)}
                raise AssertionError(f"{[str(one) for one in conditions]}: {wrong}") from None
            assert not client.resets
    finally:
        for client, _ in clients:
            client.leave()
        for hub, _ in sides:
            await hub.close()


async def test_a_row_that_leaves_the_filter_is_removed_and_a_client_resumes_over_it(engine):
    values = random_values(random.Random(1)) | {"price": 9, "team": 1}
    await write(engine, sa.insert(Job).values(id=1, **values))
    source = Table(engine, Job).where(J.price > 5, J.team == 1)
    page = await source.page(9)
    await write(engine, sa.update(Job).values(price=2))
    missed = await source.page(9, after=page.end)
    assert [(change.removed, change.key) for change in missed.changes] == [(True, {"id": 1})]


async def test_equalities_among_conditions_are_routed_by_the_index(engine):
    table = Table(engine, Job)
    assert table.where(J.team == 1).identity == table.where(team=1).identity
    assert table.where(J.team == "1", J.open).where(J.price > 1) == table.where(
        and_(J.open, J.price > 1), team=1
    )
    assert table.where(J.price > 1) != table.where(J.price > 2)
    either = table.where(J.price > 1) | table.where(J.price > 2)
    assert isinstance(either.filter, Filter)
    assert len(either.filter.any_of) == 2


async def test_an_append_only_table_takes_conditions_on_any_column(engine):
    table, hub = Table(engine, Log), Hub()
    got = []
    await hub.subscribe(table.where(Log.size > 5), got.extend)
    try:
        await write(engine, sa.insert(Log).values([{"size": n} for n in (3, 7, 9)]))
        await until(lambda: len(got) == 2)
        assert [change.item["size"] for change in got] == [7, 9]
    finally:
        await hub.close()


@pytest.mark.parametrize("name", ["part", "ranked", "stored", "asked_0", "listed_0", "kind"])
async def test_a_table_may_have_the_name_of_anything_in_our_statements(engine, name):
    columns = sa.Column("id", sa.Integer, primary_key=True), sa.Column("at", sa.DateTime)
    table = sa.Table(name, sa.MetaData(), *columns, sa.Column("size", sa.Integer))
    track_table(table, keyed=True, filters=["size"])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    source, hub, got = Table(engine, table).where(table.c.size > 5), Hub(), []
    recent = source.within("at", timedelta(days=99_999))
    await hub.subscribe(source, got.extend)
    try:
        at = START.replace(tzinfo=None)
        await write(engine, sa.insert(table).values(id=1, size=7, at=at))
        page = await recent.page(9)
        await write(engine, sa.update(table).values(size=8))
        await until(lambda: len(got) >= 2)
        later = await recent.page(9, after=page.end)
        assert [change.item["size"] for change in (*page.changes, got[-1])] == [7, 8]
        assert [change.removed for change in later.changes][-1] is False
    finally:
        await hub.close()


async def test_a_hundred_filters_of_one_shape_are_one_question(engine):
    table, hub = Table(engine, Log), Hub()
    got = {n: [] for n in range(100)}
    for n, into in got.items():
        await hub.subscribe(table.where(Log.size > n), into.extend)
    try:
        await write(engine, sa.insert(Log).values(size=40), sa.insert(Log).values(size=500))
        await until(lambda: all(len(into) == (2 if n < 40 else 1) for n, into in got.items()))
    finally:
        await hub.close()


@pytest.mark.parametrize("length", [1, 3, 5, 6, 7, 33, 129])
async def test_lists_of_many_lengths_make_few_statements(engine, length):
    """Each form of a condition is a part of the statement that judges all of them."""
    table, values = Table(engine, Log), list(range(length))
    longer = values + values[-1:] * (2 ** (length - 1).bit_length() - length)
    assert table.where(Log.size.in_(values)) == table.where(Log.size.in_(longer))
    assert table.where(Log.size.not_in(values)) == table.where(Log.size.not_in(longer))
    assert table.where(Log.size.in_(values)) != table.where(Log.size.in_([*values, -1]))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (Log.size > 5, "job_logs.size is no column of table 'jobs'"),
        (J.id.in_(select(Log.id)), "a sub-query may change without the row"),
        (sa.exists(select(Log.id)), "the sub-query"),
        (J.price > select(func.max(Log.size)).scalar_subquery(), "the sub-query"),
        (func.random() > 1, "the function random\\(\\), whose value may change"),
        (J.at < func.now(), "the function now\\(\\), whose value may change"),
        (func.max(J.price) > 1, "the function max\\(\\)"),
        (J.price / J.team > 1, "arithmetic and other operators"),
        (J.name.regexp_match("("), "arithmetic and other operators"),
        (sa.cast(J.name, sa.Integer) > 1, "as they are"),
        (J.name.like(J.level), "the pattern of LIKE is a value"),
        (J.name.like("a\\"), "ends with the escape character"),
        (sa.text("price > 5"), "write it with SQLAlchemy's expressions|no condition"),
        (sa.literal_column("price") > 5, "no column of a table"),
        (J.price, "no condition"),
        (True, "which Python has made of a comparison"),
        (None, "which Python has made of a comparison"),
        ("price > 5", "no condition"),
        (J.note == "x", "a removal does not keep it"),
        (J.note.like("x"), "a removal does not keep it"),
        (J.name.in_([f"n{n}" for n in range(257)]), "it may have 256"),
    ],
)
async def test_what_cannot_be_judged_of_one_row_is_refused(engine, condition, said):
    with pytest.raises(DeclarationError, match=said):
        Table(engine, Job).where(condition)


@on_postgresql
async def test_a_condition_that_the_database_refuses_is_named(engine):
    hub = Hub()
    try:
        with pytest.raises(DeclarationError, match="the database refuses it"):
            await hub.subscribe(Table(engine, Log).where(func.lower(Log.size) == "x"), print)
    finally:
        await hub.close()


@on_postgresql
@pytest.mark.filterwarnings("ignore:Did not recognize type")
async def test_a_column_without_equality_is_named(engine):
    """PostgreSQL does not compare values of every type; its own sentence names no column."""
    kinds = {"a": "json", "b": "xml", "c": "point"}
    columns = [
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(n, sa.Text) for n in kinds),
    ]
    places = sa.Table("places", sa.MetaData(), *columns)
    track_table(places)
    ddl = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE TABLE places (id int PRIMARY KEY, {ddl})")
        await connection.run_sync(add_tracking, "places")
    for name in kinds:
        with pytest.raises(DeclarationError, match=f"filtered by '{name}'.* no equality"):
            await Table(engine, places).where(**{name: "1"}).page(9)
