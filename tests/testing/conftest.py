"""An application whose feeds and streams the kit is tried on."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from headwater.eventlog import MemoryLog
from headwater.feeds import Poll
from headwater.web.fastapi import EventStream, LiveRouter, Source


class Reading(BaseModel):
    id: str
    celsius: float


class Weather(BaseModel):
    id: str
    calls: int


class World:
    """Attributes: the log; how often the poll's function was called; what happened."""

    def __init__(self):
        self.log = MemoryLog()
        self.calls = 0
        self.events = []
        self.app = FastAPI(lifespan=self.lifespan)
        live = LiveRouter(heartbeat=30.0)

        @live.feed("/readings", item=Reading, collection="readings", event="reading")
        async def readings() -> Source:
            return self.log.topic("readings")

        async def ask():
            self.calls += 1
            return [{"id": "here", "calls": self.calls}]

        weather = Poll(ask, interval=10.0, key="id")

        @live.feed("/weather", item=Weather, collection="weather", event="weather", keyed=True)
        async def weather_feed() -> Source:
            return weather()

        @live.get("/never", sse=True)
        async def never(stream: EventStream):
            stream.on_close(lambda: self.events.append("never left"))
            stream.keep_alive()

        @live.get("/fails", sse=True)
        async def fails(stream: EventStream):
            await stream.send("first")
            raise RuntimeError("in the handler")

        @self.app.get("/state")
        async def state(request: Request):
            return {"word": request.state.word}

        @self.app.get("/slow")
        async def slow():
            await asyncio.sleep(60)  # longer than any test waits

        self.app.include_router(live, prefix="/api")

    @asynccontextmanager
    async def lifespan(self, _):
        self.events.append("started")
        yield {"word": "hello"}
        self.events.append("ended")

    async def read(self, *celsius):
        await self.log.append("readings", [{"celsius": each} for each in celsius])


@pytest.fixture
async def world():
    return World()
