"""A value that cannot be read stops its own item of a live query, and no other."""

from __future__ import annotations

import enum
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import LiveQuery, sqlite_engine, track_table
from headwater.testing import LiveClient
from headwater.web.fastapi import LiveRouter, Source
from sql.query.shop import write


class Mood(enum.Enum):
    GLAD = 1
    SAD = 2


KINDS: dict[str, tuple[Any, str, str]] = {
    "enum": (sa.Enum(Mood, native_enum=False, length=9), "ANGRY", "SAD"),
    "native": (sa.Enum(Mood), "ANGRY", "SAD"),
    "date": (sa.DateTime, "yesterday", "2026-01-01 00:00:00.000000"),
    "infinity": (sa.DateTime(timezone=True), "infinity", "2026-01-01"),
}
WORLDS = ["sqlite enum", "sqlite date", "psycopg enum", "psycopg infinity"]
LONG = ["psycopg native", "asyncpg enum", "asyncpg native"]


@pytest.fixture(
    params=[*WORLDS, *(pytest.param(each, marks=pytest.mark.long) for each in LONG)],
)
async def world(request, tmp_path):
    driver, kind = request.param.split()
    if driver == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    else:
        postgres = request.getfixturevalue("postgres")
        url = sa.make_url(postgres.url(name := postgres.database()))
        engine = create_async_engine(url.set(drivername=f"postgresql+{driver}"))
    yield engine, *KINDS[kind]
    await engine.dispose()
    if driver != "sqlite":
        postgres.drop(name)


@pytest.mark.parametrize("limit", [None, pytest.param(9, marks=pytest.mark.long)])
async def test_the_item_waits_and_others_go_on(world, caplog, limit):
    engine, kind, bad, good = world
    things = sa.Table(
        "things",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("who", sa.String(9)),
        sa.Column("value", kind),
    )
    track_table(things, keyed=True)
    chosen = sa.select(things).order_by(things.c.id).limit(limit) if limit else sa.select(things)
    query = LiveQuery(engine, chosen, key=["id"], where=["who"])
    async with engine.begin() as connection:
        await connection.run_sync(things.metadata.create_all)
    if isinstance(kind, sa.Enum) and kind.native_enum and engine.dialect.name == "postgresql":
        await write(engine, sa.text("ALTER TYPE mood ADD VALUE 'ANGRY'"))
    app, live = FastAPI(), LiveRouter()

    @live.feed("/things", item=dict, event="thing", keyed=True)
    async def feed(who: str) -> Source:
        return query.where(who=who)

    app.include_router(live)

    def row(key, who, value):
        return sa.text(f"INSERT INTO things (id, who, value) VALUES ({key}, '{who}', '{value}')")

    async with LiveClient(app, patience=20) as client:
        async with (
            client.stream("/things/stream?who=a") as one,
            client.stream("/things/stream?who=b") as other,
        ):
            place = (await one.next("snapshot")).last_event_id
            await other.next("snapshot")
            await write(engine, row(1, "a", bad), row(2, "b", good))
            assert (await other.next("thing")).json()["id"] == 2
            assert (await one.next("error")).json() == {"status": 500}
            await write(engine, sa.text("UPDATE things SET who = 'c' WHERE id = 2"))
            assert (await other.next("thing_removed")).json() == {"id": 2}
        assert "cannot show the item id=1" in caplog.text
        assert bad not in caplog.text
        assert (await client.http.get("/things?who=a")).status_code == 500
        shown = (await client.get("/things?who=c")).json()["items"]
        assert [item["id"] for item in shown] == [2]
        await write(engine, sa.text(f"UPDATE things SET value = '{good}' WHERE id = 1"))
        page = (await client.get(f"/things?who=a&after={place}")).json()
        assert [item["id"] for item in page["items"]] == [1]


@pytest.mark.parametrize("world", ["sqlite enum", "psycopg enum"], indirect=True)
async def test_a_key_that_cannot_be_read_is_what_the_database_has(world):
    engine, kind, bad, _ = world
    things = sa.Table("things", sa.MetaData(), sa.Column("value", kind, primary_key=True))
    track_table(things, keyed=True)
    query = LiveQuery(engine, sa.select(things), key=["value"])
    async with engine.begin() as connection:
        await connection.run_sync(things.metadata.create_all)
    page = await query.where().page(9)
    for statement in (f"INSERT INTO things (value) VALUES ('{bad}')", "DELETE FROM things"):
        await write(engine, sa.text(statement))
        after, page = page, await query.where().page(9, after=page.end)
        assert [change.key for change in page.changes] == [{"value": bad}]
        assert after.end != page.end
