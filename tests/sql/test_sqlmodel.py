"""SQLModel's classes, as FastAPI's own tutorial has them: as tables, and as the models of items."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, Session, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from headwater.sql import Table, sqlite_engine, track
from headwater.testing import LiveClient
from headwater.web.fastapi import LiveRouter, Source

KEY = uuid.UUID(int=7)


class HeroBase(SQLModel):
    name: str = Field(index=True, max_length=40)
    team: int | None = None
    secret: str = "x"


@track(keyed=True, filters=("team",))
class Hero(HeroBase, table=True):
    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    seen: datetime = Field(sa_type=sa.DateTime(timezone=True))


class HeroPublic(SQLModel):
    id: uuid.UUID
    name: str
    team: int | None


@track(indexes=[("level",)])
class Line(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    level: str


@pytest.fixture(params=["sqlite", "postgresql", "asyncpg"])
async def engine(request, tmp_path):
    if request.param == "sqlite":
        made = sqlite_engine(f"sqlite:///{tmp_path}/data.db")
    else:
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        url = sa.make_url(postgres.url(name))
        if request.param == "asyncpg":
            url = url.set(drivername="postgresql+asyncpg")
        made = create_async_engine(url)
    tables = [
        table
        for name, table in SQLModel.metadata.tables.items()
        if name in ("hero", "line") or name.startswith("headwater")
    ]
    async with made.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all, tables=tables)
    yield made
    await made.dispose()
    if request.param != "sqlite":
        postgres.drop(name)


def application(engine):
    heroes, lines = Table(engine, Hero), Table(engine, Line)
    app, live = FastAPI(), LiveRouter()

    @live.feed("/heroes", item=HeroPublic, collection="heroes", event="hero", keyed=True)
    async def feed(team: int | None = None) -> Source:
        return heroes.optional(team=team).within("seen", timedelta(hours=1))

    @live.feed("/lines", item=Line, collection="lines", event="line")
    async def feed_of_lines(level: str | None = None) -> Source:
        return lines.optional(level=level)

    app.include_router(live)
    return app


async def test_a_table_model_is_followed_and_a_data_model_is_the_item(engine):
    async with LiveClient(application(engine), patience=20) as client, AsyncSession(engine) as db:
        async with client.stream("/heroes/stream?team=1") as stream:
            assert (await stream.next("snapshot")).json()["heroes"] == []
            hero = Hero(id=KEY, name="a", team=1, seen=datetime.now(UTC))
            db.add(hero)
            await db.commit()
            await db.refresh(hero)
            shown = {"id": str(KEY), "name": "a", "team": 1}
            assert (await stream.next("hero")).json() == shown
            assert (await client.get("/heroes?team=1")).json()["heroes"] == [shown]
            hero.team = 2
            db.add(hero)
            await db.commit()
            assert (await stream.next("hero_removed")).json() == {"id": str(KEY)}


async def test_the_table_model_may_be_the_item(engine):
    async with LiveClient(application(engine), patience=20) as client, AsyncSession(engine) as db:
        async with client.stream("/lines/stream?level=a") as stream:
            await stream.next("snapshot")
            db.add_all([Line(level="b"), Line(level="a")])
            await db.commit()
            line = (await stream.next("line")).json()
            assert line["level"] == "a"
            assert (await client.get("/lines?level=a")).json()["lines"] == [line]


async def test_a_session_that_is_not_async_wakes_the_streams(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/data.db")
    SQLModel.metadata.create_all(engine)
    async with LiveClient(application(engine), patience=20) as client:
        async with client.stream("/lines/stream") as stream:
            await stream.next("snapshot")
            with Session(engine) as db:
                db.add(Line(level="a"))
                db.commit()
            assert (await stream.next("line")).json()["level"] == "a"
    engine.dispose()
