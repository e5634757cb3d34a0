"""The clients against a Headwater server, behind a proxy that holds streams back and cuts them."""

import asyncio

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

import headwater.client
from headwater.client import Item, Snapshot
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import SSE, EventStream, LiveRouter, Source
from support.proxy import proxied
from support.server import serving
from support.until import until


class Tick(BaseModel):
    id: str
    n: int


class Question(BaseModel):
    text: str


@pytest.fixture
async def log():
    return MemoryLog()


@pytest.fixture
async def app(log):
    app = FastAPI()
    live = LiveRouter(heartbeat=30.0)

    @live.feed("/ticks", item=Tick, collection="ticks", event="tick")
    async def ticks() -> Source:
        return log.topic("ticks")

    @live.post("/answers", sse=SSE(kind="manual"))
    async def answer(question: Question, stream: EventStream):
        for word in question.text.split():
            await stream.send({"word": word})

    app.include_router(live, prefix="/api")
    return app


def numbers(values):
    found = []
    for value in values:
        if isinstance(value, Snapshot):
            found += [item.n for item in value.items]
        elif isinstance(value, Item):
            found.append(value.data.n)
    return found


async def test_each_item_comes_once_while_streams_are_held_back_polled_for_and_cut(app, log):
    values = []
    async with serving(app) as port, proxied(port) as proxy, asyncio.timeout(60):
        url = f"http://127.0.0.1:{proxy.port}/api/ticks?limit=100"
        async with headwater.client.follow(url, item=Tick, fallback=0.2, retry=0.05) as feed:

            async def read():
                async for value in feed:
                    values.append(value)

            reading = asyncio.create_task(read())
            for n in range(30):
                await log.append("ticks", {"n": n})
                if n % 10 == 3:
                    proxy.hold()
                    proxy.cut()
                    await until(lambda: feed.polling)
                    proxy.release()
                elif n % 10 == 7:
                    proxy.cut()
            await until(lambda: numbers(values)[-1:] == [29], patience=30)
            await feed.aclose()
            await reading
    assert numbers(values) == list(range(30))


async def test_an_answer_to_a_question_is_read_word_by_word(app, client):
    async with serving(app) as port:
        messages, error, _ = await client.messages(
            f"http://127.0.0.1:{port}/api/answers", json={"text": "to be or not"}
        )
    assert error is None
    assert [message.json()["word"] for message in messages] == ["to", "be", "or", "not"]
