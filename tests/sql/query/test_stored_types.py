"""The database's own values count, where the model's type says less than the table's."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import LiveQuery, track_table
from sql.query.shop import write

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
