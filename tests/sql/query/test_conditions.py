"""``where()`` of a live query with SQLAlchemy expressions over the columns that it names."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy import func, or_, select
from sqlalchemy.dialects.postgresql import CITEXT

from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError
from headwater.feeds._feed import Feed
from headwater.sql import sqlite_engine, track_table
from headwater.sql.query._live import LiveQuery
from sql.query.shop import Base, Customer, Line, Order, write
from sql.query.test_delivery import Writer
from support.streams import StreamClient
from support.until import until

FEED = Feed("orders", collection="orders", event="order")

CONDITIONS = [
    (Customer.tenant != 1,),
    (Customer.tenant.in_([1, 3]), Order.id > 2),
    (or_(Customer.tenant > 2, Order.customer_id == 1),),
    (~Order.customer_id.between(1, 2),),
    (Order.id >= 1010, Customer.tenant == 2),
    (Order.id.between(2, 1020),),
]


def filtered(engine):
    return LiveQuery(
        engine,
        select(Order.id, Order.customer_id, Customer.tenant, func.sum(Line.total).label("total"))
        .join(Order.customer)
        .outerjoin(Line)
        .group_by(Order.id, Customer.id),
        key=["id"],
        where=["tenant", "customer_id", "id"],
    )


async def follow(engine, seed, steps):
    pick, writer = random.Random(seed), Writer(engine, seed)
    sides = [(Hub(), filtered(engine)) for _ in range(2)]
    clients = [(StreamClient(FEED), conditions) for conditions in CONDITIONS]
    try:
        for step in range(steps):
            client, conditions = pick.choice(clients) if step >= len(clients) else clients[step]
            client.leave(pick.choice([None, 0, 1, 2]))
            hub, query = pick.choice(sides)
            source = query.where(*conditions)
            await asyncio.gather(writer.step(), client.connect(hub, source))
        for client, conditions in clients:
            page = await sides[0][1].where(*conditions).page(500)
            expected = {change.item["id"]: dict(change.item) for change in page.changes}
            async with engine.connect() as connection:
                chosen = select(Order.id).join(Order.customer).where(*conditions)
                assert set(await connection.scalars(chosen)) == set(expected)

            def settled(client=client, expected=expected):
                client.read()
                return client.items == expected

            await until(settled)
            assert not client.resets
    finally:
        for client, _ in clients:
            client.leave()
        for hub, _ in sides:
            await hub.close()


async def test_streams_that_come_and_go_show_what_the_database_selects(engine):
    await follow(engine, 1, 15)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
async def test_many_more_changes(engine, seed):
    await follow(engine, seed, 150)


async def test_a_row_that_leaves_a_condition_is_removed_for_its_clients_alone(engine):
    query, hub = filtered(engine), Hub()
    inside, outside = StreamClient(FEED), StreamClient(FEED)
    await inside.connect(hub, query.where(Customer.tenant < 2))
    await outside.connect(hub, query.where(Customer.tenant > 2))
    try:
        assert sorted(inside.items) == [1, 2, 3]
        await write(engine, sa.update(Order).where(Order.id == 1).values(customer_id=2))

        def left():
            inside.read()
            return sorted(inside.items) == [2, 3]

        await until(left)
        outside.read()
        assert not outside.told
        page = await query.where(Customer.tenant < 2).page(9)
        await write(engine, sa.delete(Line), sa.delete(Order).where(Order.id == 2))
        missed = await query.where(Customer.tenant < 2).page(9, after=page.end)
        removals = [change.key for change in missed.changes if change.removed]
        assert removals == [{"id": 2}]
    finally:
        await hub.close()


async def test_the_first_rows_of_empty_tables_are_judged_too(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
    query, hub, client = filtered(engine), Hub(), StreamClient(FEED)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await client.connect(hub, query.where(Customer.tenant > 1))
    try:
        customers = [{"id": n, "tenant": n, "name": "Ada"} for n in (1, 2)]
        await write(
            engine,
            sa.insert(Customer).values(customers),
            sa.insert(Order).values([{"id": n, "customer_id": n} for n in (1, 2)]),
        )

        def came():
            client.read()
            return client.items

        await until(came)
        assert [*client.items] == [2]
    finally:
        await hub.close()
        await engine.dispose()


async def test_texts_that_a_collation_takes_for_equal(engine):
    """Such a column may be joined by and filtered by: the database compares, now and then."""
    sqlite = engine.dialect.name == "sqlite"
    text = sa.String(9, collation="NOCASE") if sqlite else CITEXT()
    metadata = sa.MetaData()
    people = sa.Table(
        "people",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", text, unique=True),
    )
    notes = sa.Table(
        "notes",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("author", text),
    )
    for table in (people, notes):
        track_table(table, keyed=True)
    query = LiveQuery(
        engine,
        select(notes.c.id, people.c.name)
        .join(people, notes.c.author == people.c.name)
        .where(notes.c.author != "nobody"),
        key=["id"],
        where=["name"],
    )
    async with engine.begin() as connection:
        if not sqlite:
            await connection.exec_driver_sql("CREATE EXTENSION citext")
        await connection.run_sync(metadata.create_all)
        await connection.execute(sa.insert(people).values(id=1, name="Ada"))
        await connection.execute(sa.insert(people).values(id=2, name="Bob"))
        await connection.execute(sa.insert(notes).values(id=1, author="ADA"))
    hub, client = Hub(), StreamClient(FEED)
    await client.connect(hub, query.where(name=["aDA", "nobody"]))
    place = (await query.where(name="ada").page(9)).end

    async def shows(*keys):
        await until(lambda: client.read() or sorted(client.items) == [*keys])

    try:
        await shows(1)
        await write(engine, sa.insert(notes).values(id=2, author="ada"))
        await shows(1, 2)
        await write(engine, sa.update(notes).where(notes.c.id == 1).values(author="BOB"))
        await shows(2)
        await write(engine, sa.update(people).where(people.c.id == 1).values(name="ADA"))
        await until(lambda: client.read() or client.items[2]["name"] == "ADA")
        await write(engine, sa.update(people).where(people.c.id == 1).values(name="Eve"))
        await shows()
        missed = (await query.where(name="ADa").page(9, after=place)).changes
        assert [(change.key["id"], change.removed) for change in missed] == [(1, True)]
    finally:
        await hub.close()
        await write(engine, sa.text("DROP TABLE people"), sa.text("DROP TABLE notes"))


class Lower(sa.types.TypeDecorator):
    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return value.lower()


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize(
    ("kind", "value", "same"),
    [
        (Lower(9), "Ada", "ADA"),
        (sa.DateTime(timezone=True), *[datetime(2026, 1, 1, tzinfo=UTC)] * 2),
        (sa.Numeric(10, 2), Decimal("1.25"), Decimal("1.250")),
    ],
    ids=["own type", "moment", "number"],
)
async def test_values_are_compared_as_a_row_has_them(tmp_path, limit, kind, value, same):
    """The hub compares values in Python, and a page in the database."""
    engine, metadata = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}"), sa.MetaData()
    things = sa.Table(
        "things",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("value", kind, nullable=False),
    )
    track_table(things, keyed=True)
    chosen = select(things).order_by(things.c.id).limit(limit) if limit else select(things)
    query = LiveQuery(engine, chosen, key=["id"], where=["value"])
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await write(engine, sa.insert(things).values([{"id": n, "value": value} for n in (1, 2)]))
    hub, client = Hub(), StreamClient(Feed("n", collection="things", event="thing"))
    await client.connect(hub, query.where(value=same))
    try:
        assert sorted(client.items) == [1, 2]
        await write(engine, sa.insert(things).values(id=3, value=value), sa.delete(things))
        await until(lambda: client.read() or not client.items)
        await write(engine, sa.insert(things).values(id=4, value=value))
        await until(lambda: client.read() or [*client.items] == [4])
    finally:
        await hub.close()
        await engine.dispose()


async def test_what_the_query_is_not_filtered_by_is_refused(engine):
    query = filtered(engine)
    with pytest.raises(
        DeclarationError, match="name it in where=; there is tenant, customer_id, id"
    ):
        query.where(Customer.name > "A")
    with pytest.raises(DeclarationError, match="no table that the query reads"):
        LiveQuery(engine, select(Order.id, Order.customer_id), key=["id"], where=["id"]).where(
            Customer.tenant > 1
        )
    first = LiveQuery(
        engine,
        select(Order.id, Order.customer_id).order_by(Order.id.desc()).limit(2),
        key=["id"],
        where=["customer_id"],
    )
    with pytest.raises(DeclarationError, match="takes values only"):
        first.where(Order.customer_id > 1)
    assert query.where(Customer.tenant == 1).identity == query.where(tenant=1).identity
