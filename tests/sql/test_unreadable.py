"""A value that the driver or the column's type cannot read stops its own item, nothing else."""

from __future__ import annotations

import datetime as dt
import enum
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import Table, sqlite_engine, track_table
from headwater.testing import LiveClient
from headwater.web.fastapi import LiveRouter, Source


class Mood(enum.Enum):
    GLAD = 1
    SAD = 2


KINDS: dict[str, tuple[Any, str, str]] = {
    "enum": (sa.Enum(Mood, native_enum=False, length=9), "'ANGRY'", "'SAD'"),
    "json": (sa.JSON, "'{'", "'{}'"),
    "date": (sa.DateTime, "'yesterday'", "'2026-01-01 00:00:00.000000'"),
    "infinity": (sa.DateTime, "'infinity'", "'2026-01-01'"),
}


@pytest.fixture(params=["sqlite enum", "sqlite json", "sqlite date", "pg enum", "pg infinity"])
async def world(request, tmp_path):
    database, kind = request.param.split()
    if database == "sqlite":
        engine = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    else:
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        engine = create_async_engine(postgres.url(name))
    columns = sa.Column("who", sa.String(9)), sa.Column("value", KINDS[kind][0])
    table = sa.Table("things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    for column in columns:
        table.append_column(column)
    track_table(table, keyed=True, filters=["who", "value"])
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    yield World(engine, table, *KINDS[kind][1:])
    await engine.dispose()
    if database == "pg":
        postgres.drop(name)


class World:
    def __init__(self, engine, table, bad, good):
        self.engine, self.bad, self.good = engine, bad, good
        self.things = Table(engine, table)

    async def run(self, *statements):
        async with self.engine.begin() as connection:
            for each in statements:
                await connection.execute(sa.text(each))

    def app(self, **options):
        app, live = FastAPI(), LiveRouter()

        @live.feed("/things", item=dict, event="thing", keyed=True, **options)
        async def things(who: str) -> Source:
            return self.things.where(who=who)

        app.include_router(live)
        return app


async def test_the_feed_of_the_item_waits_for_it_and_others_go_on(world, caplog):
    async with LiveClient(world.app(), patience=20) as client:
        async with (
            client.stream("/things/stream?who=a") as one,
            client.stream("/things/stream?who=b") as other,
        ):
            place = (await one.next("snapshot")).last_event_id
            await other.next("snapshot")
            await world.run(
                f"INSERT INTO things (id, who, value) VALUES (1, 'a', {world.bad})",
                f"INSERT INTO things (id, who, value) VALUES (2, 'b', {world.good})",
            )
            assert (await other.next("thing")).json()["id"] == 2
            assert (await one.next("error")).json() == {"status": 500}
        assert "cannot show the item id=1" in caplog.text
        assert world.bad.strip("'") not in caplog.text
        assert (await client.http.get("/things?who=a")).status_code == 500
        assert (await client.http.get("/things?who=b")).status_code == 200
        await world.run(f"UPDATE things SET value = {world.good} WHERE id = 1")
        async with client.stream("/things/stream?who=a", last_event_id=place) as one:
            while (await one.next()).json()["id"] != 1:
                pass
            await world.run(f"UPDATE things SET value = {world.bad} WHERE id = 1")
            await world.run("DELETE FROM things WHERE id = 1")
        page = (await client.get(f"/things?who=a&after={place}")).json()
        assert page["items"] == []
        # A row whose filter column changes leaves and comes back.
        assert page["removed"][-1] == {"id": 1}


async def test_a_removal_beside_it_reaches_the_stream_of_its_filter(world):
    await world.run("INSERT INTO things (id, who) VALUES (1, 'a')")
    async with (
        LiveClient(world.app(), patience=20) as client,
        client.stream("/things/stream?who=a") as stream,
    ):
        await stream.next("snapshot")
        await world.run(
            f"INSERT INTO things (id, who, value) VALUES (2, 'b', {world.bad})",
            "DELETE FROM things WHERE id = 1",
        )
        assert (await stream.next("thing_removed")).json() == {"id": 1}


async def test_it_is_left_out_where_the_feed_skips(world):
    await world.run(
        f"INSERT INTO things (id, who, value) VALUES (1, 'a', {world.bad})",
        "INSERT INTO things (id, who) VALUES (2, 'a')",
    )
    async with LiveClient(world.app(on_invalid="skip"), patience=20) as client:
        assert [one["id"] for one in (await client.get("/things?who=a")).json()["items"]] == [2]


@pytest.mark.parametrize("kind", [sa.Date(), sa.DateTime(timezone=True)], ids=str)
async def test_a_key_that_python_has_not_stops_nothing_else(postgres, kind):
    """PostgreSQL has dates before the year 1, after 9999, and infinite ones."""
    engine = create_async_engine(postgres.url(name := postgres.database()))
    table = sa.Table("days", sa.MetaData(), sa.Column("day", kind, primary_key=True))
    table.append_column(sa.Column("word", sa.String(9)))
    track_table(table, keyed=True)
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    app, live, days = FastAPI(), LiveRouter(), Table(engine, table)

    @live.feed("/days", item=dict, event="day", keyed=True, on_invalid="skip")
    async def feed() -> Source:
        return days.where()

    app.include_router(live)

    async def run(statement):
        async with engine.begin() as connection:
            await connection.exec_driver_sql(statement)

    async def next_word(stream):
        # The feed says that it has no item for the others.
        while (event := await stream.next()).event != "day":
            assert event.json()["day"] in ("infinity", "0044-03-15 BC", "0044-03-15 00:00:00+00 BC")
        return event.json()["word"]

    async with LiveClient(app, patience=20) as client:
        async with client.stream("/days/stream") as stream:
            place = (await stream.next("snapshot")).last_event_id
            for day, word in ("infinity", "a"), ("0044-03-15 BC", "b"), ("9999-12-31", "c"):
                await run(f"INSERT INTO days (day, word) VALUES ('{day}', '{word}')")
            assert await next_word(stream) == "c"
            await run("UPDATE days SET word = word || '!'")
            assert await next_word(stream) == "c!"
            await run("DELETE FROM days WHERE word <> 'c!'")
            await run("INSERT INTO days (day, word) VALUES ('2026-01-01', 'd')")
            assert await next_word(stream) == "d"
        shown = (await client.get("/days")).json()["items"]
        assert [one["word"] for one in shown] == ["c!", "d"]
        resumed = (await client.get(f"/days?after={place}")).json()["items"]
        assert [one["word"] for one in resumed] == ["c!", "d"]
    await engine.dispose()
    postgres.drop(name)


@pytest.mark.parametrize(
    ("kind", "bad", "good"),
    [
        (sa.Enum("sad", "glad", name="mood"), "angry", "sad"),
        (sa.Time(), "24:00:00", "12:00:00"),
        (sa.DateTime(), "infinity", "2026-01-01 00:00:00"),
    ],
    ids=str,
)
async def test_the_feed_waits_at_such_a_key_until_it_is_another(postgres, caplog, kind, bad, good):
    engine = create_async_engine(postgres.url(name := postgres.database()))
    table = sa.Table("things", sa.MetaData(), sa.Column("id", kind, primary_key=True))
    track_table(table, keyed=True)
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
        if isinstance(kind, sa.Enum):
            await connection.exec_driver_sql(f"ALTER TYPE mood ADD VALUE '{bad}'")
    app, live, things = FastAPI(), LiveRouter(), Table(engine, table)

    @live.feed("/things", item=dict, event="thing", keyed=True)
    async def feed() -> Source:
        return things.where()

    app.include_router(live)

    async def run(statement):
        async with engine.begin() as connection:
            await connection.exec_driver_sql(statement)

    async with LiveClient(app, patience=20) as client:
        place = (await client.get("/things")).json()["position"]
        await run(f"INSERT INTO things (id) VALUES ('{bad}')")
        assert (await client.http.get(f"/things?after={place}")).status_code == 500
        assert f"cannot show the item id={bad!r}" in caplog.text
        await run(f"UPDATE things SET id = '{good}'")
        page = (await client.get(f"/things?after={place}")).json()
        assert page["removed"] == [{"id": bad}]
        assert len(page["items"]) == 1
    await engine.dispose()
    postgres.drop(name)


async def test_dates_are_read_in_sessions_of_any_style(postgres):
    """An application, a role or a database may have set what psycopg does not read."""
    name = postgres.database()
    styles = {"options": "-c datestyle=German -c intervalstyle=iso_8601"}
    engine = create_async_engine(postgres.url(name), connect_args=styles)
    table = sa.Table("things", sa.MetaData(), sa.Column("day", sa.Date, primary_key=True))
    table.append_column(sa.Column("at", sa.DateTime(timezone=True)))
    track_table(table, keyed=True)
    day, at = dt.date(2026, 3, 1), dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(table.metadata.create_all)
            await connection.execute(sa.insert(table).values(day=day, at=at))
        (change,) = (await Table(engine, table).where().page(9)).changes
        assert (change.key, change.values["at"]) == ({"day": day}, at)
        async with engine.connect() as connection:
            assert (await connection.scalar(sa.text("SHOW datestyle"))).startswith("German")
    finally:
        await engine.dispose()
        postgres.drop(name)
