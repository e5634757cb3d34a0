"""An item that does not fit its model is never passed over: the feed waits there."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field

from headwater import Poll
from headwater.eventlog import MemoryLog
from headwater.sql import Table, sqlite_engine
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving
from support.tables import Base, Client, Log
from support.until import until

SECRET = "very-secret"


class Line(BaseModel):
    id: int
    level: str = Field(max_length=5)


class Someone(BaseModel):
    id: str
    user_id: int = Field(lt=100)


class Rig:
    def __init__(self, engine, **options) -> None:
        self.engine = engine
        self.live = LiveRouter()
        logs, clients = Table(engine, Log), Table(engine, Client)

        @self.live.feed("/lines", item=Line, event="line", **options)
        async def lines() -> Source:
            return logs.where()

        @self.live.feed("/clients", item=Someone, event="client", keyed=True, **options)
        async def someone() -> Source:
            return clients.where()

        self.app = Application(self.live, prefix="/api")

    async def run(self, statement: str, **values) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(sa.text(statement), values)

    async def add(self, *levels: str) -> None:
        for level in levels:
            await self.run("INSERT INTO logs (user_id, level) VALUES (1, :level)", level=level)


@pytest.fixture
async def engine(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def page(port, path):
    async with request(port, path) as answer:
        return answer.status, json.loads(await answer.body())


async def to_the_end(port, path, last=None):
    """All events of a stream that ends, and the time after which its client comes back."""
    headers = {} if last is None else {"Last-Event-ID": last}
    async with request(port, path, headers=headers) as answer:
        assert answer.status == 200
        return await answer.rest(), answer.raw


async def test_streams_wait_at_the_item_and_go_on_when_it_is_mended(engine, caplog):
    rig = Rig(engine)
    await rig.add("a")
    async with serving(rig.app) as port:
        async with request(port, "/api/lines/stream") as answer:
            snapshot = await answer.next()
            await rig.add("b")
            last = (await answer.next()).last_event_id
            await rig.add(SECRET)
            error = await answer.next()
            assert (error.event, json.loads(error.data)) == ("error", {"status": 500})
            assert await answer.rest() == []
        await rig.add("c")
        for _ in range(2):
            (error,), raw = await to_the_end(port, "/api/lines/stream", last)
            assert error.event == "error" and b"id:" not in raw and b"retry:" in raw
        # What is before the item is sent first.
        first, error = (await to_the_end(port, "/api/lines/stream", snapshot.last_event_id))[0]
        assert (json.loads(first.data)["level"], error.event) == ("b", "error")
        status, problem = await page(port, "/api/lines")
        assert status == 500 and "does not fit" in problem["detail"]
        status, _ = await page(port, f"/api/lines?after={snapshot.last_event_id}&limit=1")
        assert status == 200
        assert "id=3" in caplog.text and SECRET not in caplog.text + json.dumps(problem)
        assert rig.live.stats.invalid_held >= 3
        await rig.run("UPDATE logs SET level = 'good' WHERE id = 3")
        async with request(port, "/api/lines/stream", headers={"Last-Event-ID": last}) as answer:
            levels = [json.loads((await answer.next()).data)["level"] for _ in range(2)]
        assert levels == ["good", "c"]
        assert "again" in caplog.text


async def test_skipped_items_are_in_neither_pages_nor_streams(engine, caplog):
    rig = Rig(engine, on_invalid="skip")
    await rig.add("a", SECRET, "b")
    await rig.run("INSERT INTO clients (id, user_id) VALUES ('x', 1)")
    async with serving(rig.app) as port:
        _, body = await page(port, "/api/lines")
        assert [each["level"] for each in body["items"]] == ["a", "b"]
        async with request(port, "/api/lines/stream") as answer:
            assert json.loads((await answer.next()).data)["items"] == body["items"]
            await rig.add(SECRET, "c")
            assert json.loads((await answer.next()).data)["level"] == "c"
        assert rig.live.stats.invalid_skipped >= 3
        assert "id=2" in caplog.text and SECRET not in caplog.text
        # A client may have an earlier version of a keyed item.
        async with request(port, "/api/clients/stream") as answer:
            snapshot = await answer.next()
            await rig.run("UPDATE clients SET user_id = 100")
            removed = await answer.next()
            assert (removed.event, json.loads(removed.data)) == ("client_removed", {"id": "x"})
        _, body = await page(port, f"/api/clients?after={snapshot.last_event_id}")
        assert body["items"] == [] and {"id": "x"} in body["removed"]


async def test_topics_and_polls_wait_too():
    log, state = MemoryLog(), [{"id": 1, "level": "a"}]
    live = LiveRouter()

    @live.feed("/topic", item=Line, event="line")
    async def topic() -> Source:
        return log.topic("lines")

    async def fetch():
        return list(state)

    poll = Poll(fetch, interval=0.05, key="id")

    @live.feed("/poll", item=Line, event="line", keyed=True)
    async def polled() -> Source:
        return poll()

    app = Application(live, prefix="/api")
    await log.append("lines", [{"id": 1, "level": "a"}])
    async with serving(app) as port:
        async with request(port, "/api/topic/stream") as answer:
            last = (await answer.next()).last_event_id
            await log.append("lines", [{"id": 2, "level": SECRET}, {"id": 3, "level": "b"}])
            assert (await answer.next()).event == "error"
        (error,), _ = await to_the_end(port, "/api/topic/stream", last)
        assert error.event == "error"
        async with request(port, "/api/poll/stream") as answer:
            await answer.next()
            state.append({"id": 2, "level": SECRET})
            assert (await answer.next()).event == "error"
        assert (await page(port, "/api/poll"))[0] == 500
        state[1] = {"id": 2, "level": "b"}

        async def mended():
            return (await page(port, "/api/poll"))[0] == 200

        await until(mended)
