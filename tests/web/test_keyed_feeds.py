"""Keyed feeds with a time window, over real connections and a real SQLite file."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import Table, sqlite_engine, track, track_table
from headwater.testing import LiveClient
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving


class Base(DeclarativeBase):
    pass


@track(keyed=True, filters=("team",))
class Client(Base):
    __tablename__ = "clients"
    name: Mapped[str] = mapped_column(primary_key=True)
    team: Mapped[str]
    count: Mapped[int]
    seen_at: Mapped[datetime]


class Item(BaseModel):
    name: str
    count: int


@asynccontextmanager
async def rig(tmp_path, window=None):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    live = LiveRouter()
    app = Application(live, prefix="/api")
    table = Table(engine, Client)

    @live.feed("/clients", item=Item, collection="clients", event="client", keyed=True)
    async def clients(team: str = "a") -> Source:
        source = table.where(team=team)
        return source if window is None else source.within("seen_at", window)

    async def run(statement):
        async with engine.begin() as connection:
            await connection.execute(statement)

    async with serving(app) as port:
        yield port, run, live
    await engine.dispose()


def now(ago=0.0):
    return (datetime.now(UTC) - timedelta(seconds=ago)).replace(tzinfo=None)


def add(name, team="a", count=1, ago=0.0):
    values = {"name": name, "team": team, "count": count, "seen_at": now(ago)}
    return sa.insert(Client).values(**values)


def told(message):
    return message.event, json.loads(message.data)


async def fetch(port, path):
    async with request(port, path) as answer:
        return json.loads(await answer.body())


async def test_an_item_replaces_the_one_with_its_key_and_leaves_when_deleted_or_moved(tmp_path):
    async with rig(tmp_path) as (port, run, _):
        await run(add("x"))
        async with request(port, "/api/clients/stream") as answer:
            event, page = told(await answer.next())
            assert page["clients"] == [{"name": "x", "count": 1}]
            await run(sa.update(Client).values(count=2))
            assert told(await answer.next()) == ("client", {"name": "x", "count": 2})
            await run(sa.update(Client).values(team="b"))
            assert told(await answer.next()) == ("client_removed", {"name": "x"})
            await run(sa.update(Client).values(team="a"))
            assert told(await answer.next()) == ("client", {"name": "x", "count": 2})
            await run(sa.delete(Client))
            message = await answer.next()
            assert told(message) == ("client_removed", {"name": "x"})
            assert message.last_event_id


async def test_a_returning_client_misses_no_last_state_and_no_removal(tmp_path):
    async with rig(tmp_path) as (port, run, _):
        for name in "xyz":
            await run(add(name))
        async with request(port, "/api/clients/stream") as answer:
            last = (await answer.next()).last_event_id
        await run(sa.update(Client).where(Client.name == "y").values(count=5))
        await run(sa.update(Client).where(Client.name == "y").values(count=6))
        await run(sa.delete(Client).where(Client.name == "x"))
        headers = {"Last-Event-ID": last}
        async with request(port, "/api/clients/stream", headers=headers) as answer:
            # It may be sent versions in between, for as long as they are in memory.
            seen = [told(await answer.next())]
            while seen[-1][0] != "client_removed":
                seen.append(told(await answer.next()))
            assert seen[-1] == ("client_removed", {"name": "x"})
            assert seen[-2] == ("client", {"name": "y", "count": 6})
            assert {each["name"] for _, each in seen[:-1]} == {"y"}
        page = await fetch(port, f"/api/clients?after={last}")
        assert page["clients"] == [{"name": "y", "count": 6}]
        assert page["removed"] == [{"name": "x"}]


async def test_an_item_leaves_when_its_time_passes_and_a_returning_client_is_told_once(tmp_path):
    # Long enough for a busy machine to come round once.
    async with rig(tmp_path, timedelta(seconds=2)) as (port, run, _):
        await run(add("old", ago=5))
        await run(add("first"))
        async with (
            request(port, "/api/clients/stream") as answer,
            request(port, "/api/clients/stream") as other,
        ):
            snapshot = await answer.next()
            await other.next()
            assert [c["name"] for c in told(snapshot)[1]["clients"]] == ["first"]
            await run(add("second"))
            assert told(await answer.next())[1]["name"] == "second"
            left = await answer.next()
            assert told(left) == ("client_removed", {"name": "first"})
            assert left.last_event_id != snapshot.last_event_id
            # Whoever was told it is not told again, and whoever was not is.
            headers = {"Last-Event-ID": left.last_event_id}
            async with request(port, "/api/clients/stream", headers=headers) as again:
                assert told(await again.next()) == ("client_removed", {"name": "second"})
            headers = {"Last-Event-ID": snapshot.last_event_id}
            async with request(port, "/api/clients/stream", headers=headers) as late:
                # It was not told that "second" came either, so it need not hear that it left.
                names = [told(await late.next()) for _ in range(1)]
                assert ("client_removed", {"name": "first"}) in names
            assert told(await answer.next()) == ("client_removed", {"name": "second"})
            seen = [told(await other.next())[0] for _ in range(3)]
            assert seen == ["client", "client_removed", "client_removed"]


@pytest.mark.long
async def test_activity_keeps_an_item_in_the_window(tmp_path):
    # Long enough for a busy machine to come round once.
    async with rig(tmp_path, timedelta(seconds=2)) as (port, run, _):
        await run(add("x"))
        async with request(port, "/api/clients/stream") as answer:
            await answer.next()
            loop = asyncio.get_running_loop()
            end = loop.time() + 2.5
            count = 1
            while loop.time() < end:
                count += 1
                await run(sa.update(Client).values(count=count, seen_at=now()))
                assert told(await answer.next()) == ("client", {"name": "x", "count": count})
            assert told(await answer.next()) == ("client_removed", {"name": "x"})


async def test_the_snapshot_is_the_rest_body_also_after_items_left(tmp_path):
    async with rig(tmp_path, timedelta(seconds=1)) as (port, run, _):
        await run(add("x", ago=2))
        async with request(port, "/api/clients/stream") as answer:
            await answer.next()
            await run(add("y"))
            assert told(await answer.next())[0] == "client"
            assert told(await answer.next())[0] == "client_removed"
        page = await fetch(port, "/api/clients")
        async with request(port, "/api/clients/stream") as answer:
            assert told(await answer.next())[1] == page
        assert page["clients"] == []


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (sa.Interval, timedelta(hours=1), "PT1H"),
        (sa.Float, float("inf"), None),
        (sa.LargeBinary, b"abc", "abc"),
        (sa.DateTime, datetime(2026, 1, 1), "2026-01-01T00:00:00"),
    ],
)
async def test_a_removal_has_the_key_as_items_have_it(tmp_path, kind, value, shown):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    table = sa.Table("rows", sa.MetaData(), sa.Column("id", kind, primary_key=True))
    track_table(table, keyed=True)
    app, live, rows = FastAPI(), LiveRouter(), Table(engine, table)

    @live.feed("/rows", item=dict, event="row", keyed=True)
    async def feed() -> Source:
        return rows.where()

    app.include_router(live)
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
        await connection.execute(table.insert().values(id=value))
    async with LiveClient(app) as client, client.stream("/rows/stream") as stream:
        assert (await stream.next("snapshot")).json()["items"] == [{"id": shown}]
        async with engine.begin() as connection:
            await connection.execute(table.delete())
        assert (await stream.next("row_removed")).json() == {"id": shown}
    await engine.dispose()
