"""Keys are in the order of their bytes, as Python compares them in positions."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from headwater.sql import LiveQuery, track_table
from sql.query.shop import write


def names(collation: str | None) -> sa.Table:
    columns = [sa.Column("name", sa.String(9, collation), primary_key=True)]
    table = sa.Table("names", sa.MetaData(), *columns)
    track_table(table, keyed=True)
    return table


async def filled(engine, table: sa.Table, query: sa.Select) -> LiveQuery:
    made = LiveQuery(engine, query, key=["name"])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    await write(engine, sa.insert(table).values([{"name": each} for each in ("a", "B", "c")]))
    return made


def keys(page) -> list[str]:
    return [change.key["name"] for change in page.changes]


async def test_who_reads_older_pages_and_follows_has_every_row(engine):
    sqlite = engine.dialect.name == "sqlite"
    table = names("NOCASE" if sqlite else "und-x-icu")
    if not sqlite:
        async with engine.connect() as connection:
            found = sa.text("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'")
            if await connection.scalar(found) is None:
                pytest.skip("this server has no ICU")
    query = await filled(engine, table, sa.select(table.c.name))
    page = await query.where().page(2)
    assert keys(page) == ["a", "c"]
    assert keys(await query.where().page(2, before=page.start)) == ["B"]


async def test_distinct_texts_are_read_from_the_first_one(engine):
    table = names(None)
    query = await filled(engine, table, sa.select(table.c.name).distinct())
    source = query.where()
    page = await source.page(2, after=source.nothing())
    assert keys(page) == ["B", "a"]
    assert keys(await source.page(2, after=page.end)) == ["c"]
