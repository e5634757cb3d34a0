"""A clock that a test moves."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import DateTime, String
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.errors import UsageError
from headwater.sql import Table, configure_sqlite, track
from headwater.testing import Clock, LiveClient
from headwater.web.fastapi import LiveRouter, Source


async def test_heartbeats_come_when_their_time_has_come(world):
    async with Clock() as clock, LiveClient(world.app, patience=20) as client:
        async with client.stream("/api/readings/stream") as stream:
            await stream.next("snapshot")
            await clock.advance(29)
            await clock.advance(2)
            assert await stream.comment() == "heartbeat"
            await clock.advance(31)
            assert await stream.comment() == "heartbeat"


async def test_a_poll_is_asked_as_often_as_time_says(world):
    async with Clock() as clock, LiveClient(world.app, patience=20) as client:
        async with client.stream("/api/weather/stream") as stream:
            await stream.next("snapshot")
            for _ in range(3):
                await clock.advance(10.5)
                await stream.next("weather")
    assert world.calls == 4


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    seen: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class GuestItem(BaseModel):
    id: str


async def test_items_leave_a_time_window_when_the_clock_is_moved(tmp_path):
    engine = configure_sqlite(create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(
            Guest.__table__.insert(),
            [{"id": "old", "seen": datetime.now(UTC)}],
        )
    app, live, guests = FastAPI(), LiveRouter(), Table(engine, Guest)

    @live.feed("/guests", item=GuestItem, collection="guests", event="guest", keyed=True)
    async def feed() -> Source:
        return guests.where().within("seen", timedelta(minutes=30))

    app.include_router(live, prefix="/api")
    async with Clock() as clock, LiveClient(app, patience=20) as client:
        async with client.stream("/api/guests/stream") as stream:
            assert (await stream.next("snapshot")).json()["guests"] == [{"id": "old"}]
            await clock.advance(29 * 60, step=60)
            assert len((await client.get("/api/guests")).json()["guests"]) == 1
            await clock.advance(2 * 60, step=60)
            assert (await stream.next("guest_removed")).json() == {"id": "old"}
        assert (await client.get("/api/guests")).json()["guests"] == []
    await engine.dispose()


async def test_timers_run_in_their_order_and_real_time_does_not_pass():
    ran, began = [], time.monotonic()
    async with Clock() as clock:
        loop = asyncio.get_running_loop()
        for number in (5, 1, 3):
            loop.call_later(number, ran.append, number)
        await clock.advance(4)
        assert ran == [1, 3]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await clock.advance(61)
                await asyncio.sleep(60)  # by the moved clock
    assert ran == [1, 3, 5]
    assert time.monotonic() - began < 30


async def test_the_wall_clock_is_set_right_again():
    async with Clock() as clock:
        await clock.advance(3600, step=600)
        assert clock.now - datetime.now(UTC) > timedelta(minutes=59)
    assert abs(Clock().now - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_clock_goes_forward_and_within_its_block():
    async with Clock() as clock:
        for wrong in ({"seconds": -1}, {"seconds": 1, "step": 0}):
            with pytest.raises(UsageError):
                await clock.advance(**wrong)
    with pytest.raises(UsageError, match="async with"):
        await Clock().advance(1)


def test_a_loop_whose_time_cannot_be_moved_is_named():
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not made for this platform")

    async def use():
        async with Clock():
            pass

    with pytest.raises(UsageError, match="uvloop"):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(use())
