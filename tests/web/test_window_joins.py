"""A page is read ahead of the changes that are delivered, and items leave a window meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import Table, sqlite_engine, track
from headwater.testing import Clock, LiveClient
from headwater.web.fastapi import LiveRouter, Source


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[str] = mapped_column(primary_key=True)
    seen: Mapped[datetime]


class Item(BaseModel):
    id: str


class Rig:
    def __init__(self, engine, clock, client, tail):
        self.engine, self.clock, self.client = engine, clock, client
        # While it is clear, no change is delivered.
        self.tail = tail

    def seen(self, ago):
        return (self.clock.now - timedelta(seconds=ago)).replace(tzinfo=None)

    async def add(self, name, ago=0):
        async with self.engine.begin() as connection:
            values = {"id": name, "seen": self.seen(ago)}
            await connection.execute(sa.insert(Guest).values(**values))

    async def touch(self, name):
        async with self.engine.begin() as connection:
            change = sa.update(Guest).where(Guest.id == name).values(seen=self.seen(0))
            await connection.execute(change)

    async def delete(self, name):
        async with self.engine.begin() as connection:
            await connection.execute(sa.delete(Guest).where(Guest.id == name))


@asynccontextmanager
async def opened(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app, live, guests, tail = FastAPI(), LiveRouter(), Table(engine, Guest), asyncio.Event()
    tail.set()
    batch = guests.reader.batch

    async def gated(*args, **options):
        await tail.wait()
        return await batch(*args, **options)

    guests.reader.batch = gated

    @live.feed("/guests", item=Item, collection="guests", event="guest", keyed=True)
    async def feed() -> Source:
        return guests.where().within("seen", timedelta(minutes=10))

    app.include_router(live)
    async with Clock() as clock, LiveClient(app, patience=20) as client:
        yield Rig(engine, clock, client, tail)
    await engine.dispose()


def guests(message):
    return [each["id"] for each in message.json()["guests"]]


async def test_an_item_that_leaves_before_its_change_is_delivered_is_removed(tmp_path):
    async with opened(tmp_path) as rig, rig.client.stream("/guests/stream") as first:
        assert guests(await first.next("snapshot")) == []
        rig.tail.clear()
        await rig.add("x", ago=595)
        async with rig.client.stream("/guests/stream") as ahead:
            assert guests(await ahead.next("snapshot")) == ["x"]
            await rig.clock.advance(10)
            rig.tail.set()
            await rig.add("y")
            assert (await ahead.next("guest_removed")).json() == {"id": "x"}
            assert (await ahead.next("guest")).json() == {"id": "y"}


async def test_an_item_that_a_page_has_anew_outlives_the_removal_of_its_older_version(tmp_path):
    async with opened(tmp_path) as rig:
        await rig.add("x", ago=595)
        async with rig.client.stream("/guests/stream") as first:
            assert guests(await first.next("snapshot")) == ["x"]
            rig.tail.clear()
            await rig.touch("x")
            async with rig.client.stream("/guests/stream") as ahead:
                assert guests(await ahead.next("snapshot")) == ["x"]
                await rig.clock.advance(10)
                assert (await first.next("guest_removed")).json() == {"id": "x"}
                rig.tail.set()
                await rig.add("y")
                for stream in (first, ahead):
                    shown = {"x"}
                    for message in await stream.until(lambda one: one.json() == {"id": "y"}):
                        add = message.event == "guest"
                        (shown.add if add else shown.discard)(message.json()["id"])
                    assert shown == {"x", "y"}


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_row_that_was_deleted_before_a_page_was_read_leaves_a_later_page(tmp_path, limit):
    """The page says that ``b`` left. ``a`` left earlier, but was deleted before the read."""
    async with opened(tmp_path) as rig:
        await rig.add("a", ago=540)
        await rig.add("b", ago=480)
        first = (await rig.client.get("/guests")).json()
        shown = {each["id"] for each in first["guests"]}
        assert shown == {"a", "b"}
        await rig.add("c")
        await rig.delete("a")
        await rig.clock.advance(300)
        page = first | {"has_more": True}
        while page["has_more"]:
            page = (await rig.client.get(f"/guests?limit={limit}&after={page['position']}")).json()
            shown -= {each["id"] for each in page["removed"]}
            shown |= {each["id"] for each in page["guests"]}
        assert shown == {"c"}
        assert datetime.now(UTC) < rig.clock.now
