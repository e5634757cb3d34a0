"""SQLite lets NULL into a key without NOT NULL, in as many rows as there are."""

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from headwater.sql import RowPlace, Table, sqlite_engine, track_table
from headwater.sql.alembic import add_tracking
from headwater.testing import LiveClient
from headwater.web.fastapi import LiveRouter, Source

TABLES = (
    "CREATE TABLE notes (a TEXT PRIMARY KEY, word TEXT)",
    "CREATE TABLE notes (a TEXT, rowid TEXT, word TEXT, PRIMARY KEY (a, rowid))",
)


@pytest.fixture(params=TABLES, ids=["one", "composite"])
async def engine(request, path):
    engine = sqlite_engine(f"sqlite:///{path}")
    async with engine.begin() as connection:
        await connection.exec_driver_sql(request.param)
        await connection.exec_driver_sql(
            "INSERT INTO notes (a, word) VALUES (NULL, 'one'), ('x', 'two'), (NULL, 'three')"
        )
    yield engine
    await engine.dispose()


async def notes(engine, **options):
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, "notes", **options)
        table = await connection.run_sync(
            lambda sync: sa.Table("notes", sa.MetaData(), autoload_with=sync)
        )
    track_table(table, **options)
    return Table(engine, table)


async def run(engine, *statements):
    async with engine.begin() as connection:
        for each in statements:
            await connection.exec_driver_sql(each)


def words(page):
    return sorted(change.item["word"] for change in page.changes)


async def test_an_append_only_table_has_each_row_once(engine):
    table = await notes(engine)
    before = await table.where().page(9, after=RowPlace(0))
    assert words(before) == ["one", "three", "two"]
    assert sorted(change.place.number for change in before.changes) == [1, 2, 3]
    await run(engine, *["INSERT INTO notes (a, word) VALUES (NULL, 'more')"] * 2)
    first = await table.where().page(1, after=before.end)
    second = await table.where().page(9, after=first.end)
    assert (words(first), words(second)) == (["more"], ["more"])


async def test_in_a_keyed_table_such_a_row_is_an_item_that_cannot_be_shown(engine, caplog):
    table = await notes(engine, keyed=True)
    app, live = FastAPI(), LiveRouter()
    for path, options in (("/all", {}), ("/shown", {"on_invalid": "skip"})):

        @live.feed(path, item=dict, event="note", keyed=True, **options)
        async def every() -> Source:
            return table.where()

    app.include_router(live)
    async with LiveClient(app, patience=10) as client:
        assert (await client.http.get("/all")).status_code == 500
        assert "cannot show the item a=None" in caplog.text
        async with client.stream("/shown/stream") as stream:
            first = (await stream.next("snapshot")).json()
            found = {item["word"] for item in first["items"]}
            assert found <= {"two"}
            key = ", ".join(f"{name} = coalesce({name}, word)" for name in table.reader.model.key)
            await run(engine, f"UPDATE notes SET {key}")
            while found != {"one", "two", "three"}:
                message = await stream.next()
                if message.event == "note":
                    found.add(message.json()["word"])
        assert (await client.http.get("/all")).status_code == 200
