"""Queries of the ORM: attributes with other names, loading options, classes of one table."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    joinedload,
    load_only,
    mapped_column,
    relationship,
    with_loader_criteria,
)

from headwater.sql import LiveQuery, sqlite_engine, track
from sql.query.shop import write


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Person(Base):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    nick: Mapped[str] = mapped_column("nick name")
    tasks: Mapped[list[Task]] = relationship(lazy="joined")

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}


class Chief(Person):
    __mapper_args__ = {"polymorphic_identity": "chief"}


@track(keyed=True)
class Task(Base):
    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column("owner", ForeignKey("people.id"), index=True)
    cost: Mapped[int] = mapped_column()
    double: Mapped[int] = column_property(cost * 2)
    person: Mapped[Person] = relationship(viewonly=True)


@pytest.fixture
async def engine(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
    yield engine
    await engine.dispose()


async def fill(engine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    people = [(1, "person", "a"), (2, "chief", "b")]
    await write(
        engine,
        *(
            sa.insert(Person.__table__).values({"id": n, "kind": kind, "nick name": nick})
            for n, kind, nick in people
        ),
        sa.insert(Task.__table__).values([{"id": n, "owner": n, "cost": n} for n in (1, 2)]),
    )


BOB = {"id": 2, "nick": "b", "kind": "chief"}
TASK = {"id": 2, "person_id": 2, "cost": 2, "double": 4}


@pytest.mark.parametrize(
    ("chosen", "row"),
    [
        (select(Person), BOB),
        (select(Person).options(load_only(Person.id)), BOB),
        (select(Task).options(joinedload(Task.person)), TASK),
        (select(Task, Person.nick).join(Task.person), TASK | {"nick": "b"}),
        (
            select(Task.id, Task.double, func.upper(Person.nick)).join(Task.person),
            {"id": 2, "double": 4, "upper": "B"},
        ),
        (select(Task.__table__), {"id": 2, "owner": 2, "cost": 2}),
    ],
)
async def test_a_row_has_the_attributes_whatever_is_loaded_with_them(engine, chosen, row):
    query = LiveQuery(engine, chosen, key=["id"])
    await fill(engine)
    page = await query.where().page(9)
    assert [dict(change.item) for change in page.changes][1:] == [row]


@pytest.mark.parametrize(
    "chosen",
    [
        select(Chief),
        select(Chief.id, Chief.nick),
        select(Person.id).options(with_loader_criteria(Person, Person.kind == "chief")),
    ],
)
async def test_who_is_of_another_class_is_never_sent(engine, chosen):
    """The condition is none of the SELECT's own: the ORM adds it."""
    query = LiveQuery(engine, chosen, key=["id"])
    await fill(engine)
    page = await query.where().page(9)
    assert [change.key for change in page.changes] == [{"id": 2}]
    people = Person.__table__
    await write(engine, sa.update(people).where(people.c.id == 1).values({"nick name": "x"}))
    page = await query.where().page(9, after=page.end)
    assert not page.changes
    await write(engine, sa.update(people).values(kind="person"))
    page = await query.where().page(9, after=page.end)
    assert [(change.key, change.removed) for change in page.changes] == [({"id": 2}, True)]


@pytest.mark.parametrize(
    ("chosen", "rows"),
    [
        (select(Task.id).where(Task.person.has(Person.nick == "b")), [2]),
        (select(Task.id).where(~Task.person.has(Person.nick == "a")), [2]),
        (select(Person.id).where(Person.tasks.any(Task.cost > 1)), [2]),
        (select(Task.id).join(Task.person.and_(Person.nick == "b")), [2]),
    ],
)
async def test_the_criterion_of_a_relationship_decides_then_and_now(engine, chosen, rows):
    query = LiveQuery(engine, chosen, key=["id"])
    await fill(engine)
    page = await query.where().page(9)
    assert [change.key["id"] for change in page.changes] == rows
    people = Person.__table__
    await write(
        engine,
        sa.update(people).values({"nick name": sa.case((people.c.id == 1, "b"), else_="a")}),
        sa.update(Task.__table__).values(cost=3 - sa.column("id")),
    )
    page = await query.where().page(9, after=page.end)
    assert [(change.key["id"], change.removed) for change in page.changes] == [
        (1, False),
        (2, True),
    ]
