"""Classes that share a table: a feed of one of them shows its own rows, and they come and go."""

from __future__ import annotations

import enum
from datetime import datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater import Hub
from headwater.errors import DeclarationError
from headwater.sql import Table, postgresql_engine, sqlite_engine, track
from headwater.sql._migration import drift_of
from headwater.sql.alembic import add_tracking
from support.until import until


class Base(DeclarativeBase):
    pass


@track()
class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "event"}


class Alarm(Event):
    severity: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "alarm"}


class FireAlarm(Alarm):
    __mapper_args__ = {"polymorphic_identity": "fire"}


class Note(Event):
    text: Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "note"}


class Kind(enum.Enum):
    ANIMAL = 0
    DOG = 1
    CAT = 2


@track(keyed=True, filters=("owner",))
class Animal(Base):
    __tablename__ = "animals"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int]
    kind: Mapped[Kind]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": Kind.ANIMAL}


class Dog(Animal):
    chipped: Mapped[datetime | None]
    __mapper_args__ = {"polymorphic_identity": Kind.DOG}


class Cat(Animal):
    lives: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": Kind.CAT}


@track(keyed=True)
class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}


@track(keyed=True)
class Engineer(Person):
    __tablename__ = "engineers"
    id: Mapped[int] = mapped_column(sa.ForeignKey("people.id"), primary_key=True)
    language: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "engineer"}


@track()
class Ship(Base):
    __tablename__ = "ships"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@track()
class Ferry(Ship):
    __tablename__ = "ferries"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    cars: Mapped[int]
    __mapper_args__ = {"concrete": True}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        made = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    else:
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        made = postgresql_engine(postgres.url(name))
    async with made.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield made
    await made.dispose()
    if request.param == "postgresql":
        postgres.drop(name)


async def add(engine, *items):
    async with AsyncSession(engine) as session:
        for each in items:
            session.add(each)
            await session.flush()
        await session.commit()


async def run(engine, statement):
    async with engine.begin() as connection:
        await connection.execute(statement)


def ids(page):
    return [change.item["id"] for change in page.changes]


def said(changes):
    return [("gone", c.key["id"]) if c.removed else c.item["id"] for c in changes]


class Followed:
    """What a subscription was called with."""

    def __init__(self):
        self.changes = []

    def take(self, changes):
        self.changes += changes


async def follow(hub, source):
    found = Followed()
    await hub.subscribe(source, found.take)
    return found


async def test_a_class_that_shares_its_table_shows_its_own_rows(engine):
    every, alarms = Table(engine, Event), Table(engine, Alarm)
    fires, notes = Table(engine, FireAlarm), Table(engine, Note)
    start = (await alarms.where().page(9)).end
    hub = Hub(io_uring=False)
    live = {table: await follow(hub, table.where()) for table in (every, alarms, fires, notes)}
    await add(
        engine, Event(id=1), Alarm(id=2, severity=3), Note(id=3, text="x"), FireAlarm(id=4),
        Alarm(id=5, severity=4),
    )  # fmt: skip
    assert ids(await every.where().page(9)) == [1, 2, 3, 4, 5]
    assert ids(await fires.where().page(9)) == [4]
    page = await alarms.where().page(2)
    assert (ids(page), page.has_more) == ([4, 5], True)
    assert page.changes[1].item == {"id": 5, "kind": "alarm", "severity": 4}
    assert ids(await alarms.where().page(9, before=page.start)) == [2]
    assert ids(await alarms.where().page(9, after=start)) == [2, 4, 5]
    assert ids(await alarms.where(severity=3).page(9)) == [2]
    assert ids(await alarms.where(kind="note").page(9)) == []
    assert ids(await (alarms.where(severity=3) | alarms.where(severity=4)).page(9)) == [2, 5]
    await add(engine, Event(id=9), Alarm(id=10), Note(id=11), FireAlarm(id=12))
    try:
        wanted = {every: 12, alarms: 12, fires: 12, notes: 11}
        for table, last in wanted.items():
            await table.reader.head()
            await until(lambda table=table, last=last: last in said(live[table].changes))
        assert said(live[alarms].changes) == [2, 4, 5, 10, 12]
        assert said(live[fires].changes) == [4, 12]
        assert said(live[notes].changes) == [3, 11]
        assert said(live[every].changes) == [1, 2, 3, 4, 5, 9, 10, 11, 12]
    finally:
        await hub.close()


async def test_a_row_that_becomes_one_of_another_class_leaves_as_with_a_filter(engine):
    animals, dogs, cats = Table(engine, Animal), Table(engine, Dog), Table(engine, Cat)
    await add(engine, Dog(id=1, owner=7), Cat(id=2, owner=7, lives=9), Dog(id=3, owner=8))
    assert ids(await dogs.where().page(9)) == [1, 3]
    assert ids(await dogs.where(owner=7).page(9)) == [1]
    assert set((await dogs.where().page(9)).changes[0].item) == {"id", "owner", "kind", "chipped"}
    places = {table: (await table.where().page(9)).end for table in (animals, dogs, cats)}
    hub = Hub(io_uring=False)
    live = {table: await follow(hub, table.where()) for table in (animals, dogs, cats)}
    rows = Animal.__table__
    await run(engine, rows.update().where(rows.c.id == 1).values(kind=Kind.CAT))
    await run(engine, rows.update().where(rows.c.id == 2).values(lives=8))
    await run(engine, rows.delete().where(rows.c.id == 3))
    await add(engine, Dog(id=4, owner=7), Cat(id=5, owner=7))
    try:
        for table, last in {animals: 5, dogs: 4, cats: 5}.items():
            await until(lambda table=table, last=last: last in said(live[table].changes))
    finally:
        await hub.close()
    assert said(live[dogs].changes) == [("gone", 1), ("gone", 3), 4]
    assert said(live[cats].changes) == [1, 2, 5]
    assert said(live[animals].changes) == [("gone", 1), 1, 2, ("gone", 3), 4, 5]
    for table in (animals, dogs, cats):
        resumed = await table.where().page(9, after=places[table])
        assert sorted(map(str, said(resumed.changes))) == sorted(
            map(str, said(live[table].changes))
        )
    assert ids(await dogs.where().page(9)) == [4]
    assert ids(await cats.where().page(9)) == [1, 2, 5]


async def test_joined_tables_are_refused_and_the_base_shows_all(engine):
    with pytest.raises(DeclarationError, match="Engineer is mapped to the tables 'people' and"):
        Table(engine, Engineer)
    people, own = Table(engine, Person), Table(engine, Engineer.__table__)
    await add(engine, Person(id=1), Engineer(id=2, language="x"))
    assert ids(await people.where().page(9)) == [1, 2]
    assert [c.item for c in (await own.where().page(9)).changes] == [{"id": 2, "language": "x"}]


async def test_a_concrete_class_has_a_table_of_its_own(engine):
    await add(engine, Ship(id=1, name="a"), Ferry(id=7, name="b", cars=3))
    assert ids(await Table(engine, Ship).where().page(9)) == [1]
    shown = (await Table(engine, Ferry).where().page(9)).changes
    assert [change.item for change in shown] == [{"id": 7, "name": "b", "cars": 3}]


async def test_a_class_of_an_untracked_table_shows_its_own_rows(engine):
    class Other(DeclarativeBase):
        pass

    class Entry(Other):
        __tablename__ = "entries"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        at: Mapped[datetime]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "entry"}

    class Visit(Entry):
        __mapper_args__ = {"polymorphic_identity": "visit"}

    async with engine.begin() as connection:
        await connection.run_sync(Other.metadata.create_all)
    now = datetime(2026, 3, 1)
    await add(engine, Entry(id=1, at=now), Visit(id=2, at=now))
    assert ids(await Table.untracked(engine, Visit, order_by="at").where().page(9)) == [2]
    assert ids(await Table.untracked(engine, Entry, order_by="at").where().page(9)) == [1, 2]


async def test_a_trim_never_takes_the_rows_of_another_class(engine):
    with pytest.raises(DeclarationError, match="would remove rows of other classes"):
        await Table(engine, Alarm).trim(max_count=0)


async def test_a_migration_keeps_what_classes_that_share_a_table_need(engine):
    """A date-time of a subclass too: the class is made after the table is tracked."""

    def migrated(connection):
        found = drift_of(connection, Animal.__table__)
        assert found is None
        add_tracking(connection, "animals", keyed=True, filters=["owner"])
        found = drift_of(connection, Animal.__table__)
        assert "kind" in found.call
        exec(found.call, {"add_tracking": add_tracking, "op": connection})
        assert drift_of(connection, Animal.__table__) is None

    async with engine.begin() as connection:
        await connection.run_sync(migrated)


def test_a_discriminator_that_no_stream_can_select_by_is_refused():
    class Own(DeclarativeBase):
        pass

    @track()
    class Thing(Own):
        __tablename__ = "things"
        id: Mapped[int] = mapped_column(primary_key=True)
        size: Mapped[int]
        __mapper_args__ = {
            "polymorphic_on": sa.case((sa.literal_column("size") > 9, "big"), else_="small"),
            "polymorphic_identity": "thing",
        }

    class Big(Thing):
        __mapper_args__ = {"polymorphic_identity": "big"}

    with pytest.raises(DeclarationError, match="not a column of table 'things'"):
        Table(sqlite_engine("sqlite:///unused.db"), Big)
