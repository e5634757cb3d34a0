"""A live query reads one database; feeds, streams and polls of one process may be of several."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater import Poll
from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError
from headwater.feeds._feed import Feed
from headwater.sql import LiveQuery, Table, sqlite_engine, track
from sql.query.shop import write
from support.streams import StreamClient
from support.until import until


class PeopleBase(DeclarativeBase):
    pass


class ShopBase(DeclarativeBase):
    pass


@track(keyed=True)
class Person(PeopleBase):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@track(keyed=True)
class Purchase(ShopBase):
    __tablename__ = "purchases"

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("purchases.id"))


JOINED = select(Purchase.id, Person.name).join(Person, Person.id == Purchase.person_id)


@pytest.fixture
async def engines(tmp_path):
    """One for each base."""
    made = [sqlite_engine(f"sqlite:///{tmp_path / name}.db") for name in ("people", "shop")]
    for engine, base in zip(made, (PeopleBase, ShopBase), strict=True):
        async with engine.begin() as connection:
            await connection.run_sync(base.metadata.create_all)
    yield made
    for engine in made:
        await engine.dispose()


async def test_a_query_over_two_engines_is_refused_with_both(engines):
    people, shop = engines
    table = Table(people, Person)
    said = (
        r"over two engines: table 'purchases' is followed in sqlite\+aiosqlite:.*shop.db, "
        r"table 'people' in sqlite\+aiosqlite:.*people.db.*wake="
    )
    with pytest.raises(DeclarationError, match=said):
        LiveQuery(shop, JOINED, key=["id"])
    purchases = LiveQuery(shop, select(Purchase.id), key=["id"])
    with pytest.raises(DeclarationError, match="over two engines"):
        LiveQuery(people, JOINED, key=["id"])
    del table, purchases


async def test_a_password_is_not_in_the_sentence(engines):
    people, _ = engines
    table = Table(people, Person)
    other = create_async_engine("postgresql+psycopg://me:secret@127.0.0.1/shop")
    with pytest.raises(DeclarationError, match="me:.*@127.0.0.1/shop") as caught:
        LiveQuery(other, JOINED, key=["id"])
    assert "secret" not in str(caught.value)
    del table


async def test_two_bases_in_one_database_are_one(tmp_path):
    """Whatever the drivers, and however the file is spelled."""
    (tmp_path / "data.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "data.db")
    one = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
    other = sa.create_engine(f"sqlite:///{tmp_path}/./link.db")
    table = Table(other, Person)
    query = LiveQuery(one, JOINED, key=["id"], listen=[other])
    async with one.begin() as connection:
        for base in (PeopleBase, ShopBase):
            await connection.run_sync(base.metadata.create_all)
    await write(one, sa.insert(Person).values(id=1, name="Ada"))
    await write(one, sa.insert(Purchase).values(id=1, person_id=1))
    assert [change.item["name"] for change in (await query.where().page(9)).changes] == ["Ada"]
    assert len((await table.where().page(9)).changes) == 1
    await table.engine.dispose()
    await one.dispose()
    # The same hosts by other names, and by a pooler, may be one server.
    psycopg = create_async_engine("postgresql+psycopg://localhost/shop")
    asyncpg = create_async_engine("postgresql+asyncpg://pooler:6432/shop")
    kept = Table(psycopg, Person), LiveQuery(asyncpg, select(Purchase.id), key=["id"])
    LiveQuery(asyncpg, JOINED, key=["id"])
    del kept


async def test_engines_that_are_gone_say_nothing(tmp_path):
    """As those of earlier tests of an application, and one engine for each of its customers."""
    for number in range(3):
        engine = sqlite_engine(f"sqlite:///{tmp_path}/{number}.db")
        Table(engine, Person)
        LiveQuery(engine, JOINED, key=["id"])
        await engine.dispose()
    kept = []
    for number in range(3):
        engine = sqlite_engine(f"sqlite:///{tmp_path}/customer-{number}.db")
        kept += [Table(engine, Person), LiveQuery(engine, JOINED, key=["id"])]
    assert len(kept) == 6, "an engine was refused"


async def test_listen_takes_no_engine_of_another_database(engines):
    people, shop = engines
    for make in (Table, LiveQuery):
        model = Person if make is Table else select(Person.id)
        more = {} if make is Table else {"key": ["id"]}
        with pytest.raises(DeclarationError, match=r"listen= .*shop.db.*another database.*people"):
            make(people, model, listen=[shop], **more)


async def test_a_union_of_two_engines_names_both(engines):
    people, shop = engines
    tables = [Table(engine, Person) for engine in (people, shop)]
    with pytest.raises(DeclarationError, match=r"people.db.*shop.db"):
        tables[0].where() | tables[1].where()
    queries = [LiveQuery(engine, select(Person.id), key=["id"]) for engine in (people, shop)]
    with pytest.raises(DeclarationError, match=r"people.db.*shop.db"):
        queries[0].where() | queries[1].where()


async def test_a_poll_is_woken_by_tables_of_two_engines(engines):
    """It asks both itself: a poll has no engine."""
    people, shop = engines

    async def totals():
        async with people.connect() as one, shop.connect() as other:
            persons = await one.scalar(select(sa.func.count()).select_from(Person))
            purchases = await other.scalar(select(sa.func.count()).select_from(Purchase))
        return [{"id": 1, "people": persons, "purchases": purchases}]

    wake = [Table(people, Person), LiveQuery(shop, select(Purchase.id), key=["id"])]
    poll = Poll(totals, key="id", interval=300, wake=wake)
    hub, client = Hub(), StreamClient(Feed("totals", collection="totals", event="total"))
    await client.connect(hub, poll())
    try:
        for engine, statement, expected in (
            (people, sa.insert(Person).values(id=1, name="Ada"), (1, 0)),
            (shop, sa.insert(Purchase).values(id=1, person_id=1), (1, 1)),
        ):
            await write(engine, statement)

            def counted(expected=expected):
                client.read()
                row = client.items[1]
                return (row["people"], row["purchases"]) == expected

            await until(counted)
    finally:
        await hub.close()
