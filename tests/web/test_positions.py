"""A position is bound to what it is a place in, also where one feed shows several things."""

from __future__ import annotations

import itertools
import json

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from headwater import Poll
from headwater.eventlog import MemoryLog
from headwater.sql import Table, sqlite_engine
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving
from support.tables import Base, Client, Log


class Anything(BaseModel):
    pass


async def state(who: str) -> list[dict[str, str]]:
    return []


@pytest.fixture
async def app(tmp_path):
    engines = [sqlite_engine(f"sqlite:///{tmp_path / name}") for name in ("a.db", "b.db")]
    for engine in engines:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            for user in (1, 2):
                await connection.execute(sa.insert(Log).values(user_id=user))
                await connection.execute(sa.insert(Client).values(id=str(user), user_id=user))
    log, poll = MemoryLog(), Poll(state, key="id")
    for topic in ("a", "b"):
        await log.append(topic, [{"n": 1}, {"n": 2}])
    sources = {
        **{f"logs {n}": Table(each, Log).where() for n, each in enumerate(engines)},
        **{f"clients {n}": Table(each, Client).where() for n, each in enumerate(engines)},
        **{
            f"untracked {n}": Table.untracked(each, Log, order_by="created_at").where()
            for n, each in enumerate(engines)
        },
        **{f"topic {name}": log.topic(name) for name in ("a", "b")},
        **{f"poll {name}": poll(who=name) for name in ("a", "b")},
    }
    live = LiveRouter()

    @live.feed("/things", item=Anything, keyed=True)
    async def things(which: str, user: int | None = None) -> Source:
        source = sources[which]
        return source if user is None else source.where(user_id=user)

    application = Application(live, prefix="/api")
    application.state.names = list(sources)
    yield application
    for engine in engines:
        await engine.dispose()


async def test_a_position_is_no_place_in_anything_else(app):
    async with serving(app) as port:
        positions = {}
        for name in app.state.names:
            _, body = await page(port, name)
            positions[name] = body["position"]
        for one, other in itertools.permutations(positions, 2):
            for way in ("after", "before"):
                status, problem = await page(port, one, f"&{way}={positions[other]}")
                assert (status, problem.get("reason")) == (410, "unknown"), (one, other)
        for one, other in itertools.permutations(positions, 2):
            path = f"/api/things/stream?which={one.replace(' ', '+')}"
            headers = {"Last-Event-ID": positions[other]}
            async with request(port, path, headers=headers) as answer:
                assert (await answer.next()).event == "reset", (one, other)


async def test_another_filter_of_the_same_table_goes_on_from_the_same_place(app):
    async with serving(app) as port:
        _, body = await page(port, "logs 0", "&user=1&limit=1")
        status, body = await page(port, "logs 0", f"&user=2&after={body['position']}")
        assert status == 200 and body["items"] == []


async def page(port, name, query=""):
    path = f"/api/things?which={name.replace(' ', '+')}{query}"
    async with request(port, path) as answer:
        return answer.status, json.loads(await answer.body())
