"""Code as users write it. Lines that end with ``# wrong`` must be errors of a type checker."""

from __future__ import annotations

from typing import assert_type

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel

from headwater.eventlog import MemoryLog
from headwater.feeds import Poll
from headwater.web.fastapi import SSE, EventStream, LiveRouter, Source


class Item(BaseModel):
    id: str


log = MemoryLog()
app = FastAPI()
live = LiveRouter(heartbeat=None, prefix="/api", tags=["live"])
LiveRouter(heartbeat="never")  # wrong


@live.feed("/logs", item=Item, requires="logs.view", tags=["logs"], deprecated=True)
async def logs(level: str | None = None) -> Source:
    return log.topic("logs")


@live.feed("/plain", item=Item)
def plain() -> Source:
    return log.topic("plain")


@live.feed("/wrong", item=Item)  # wrong
async def not_a_source() -> list[Item]:
    return []


live.feed("/wrong", item=Item, limits=7)  # wrong
live.feed("/wrong", item=Item, limit="some")  # wrong
live.get("/wrong", sse="yes")  # wrong
live.get("/wrong", stauts_code=201)  # wrong


live.put("/wrong", sse="yes")  # wrong
live.delete("/right", sse=SSE(kind="manual"), deprecated=True)


@live.get("/ticks", sse=SSE(heartbeat=5.0), status_code=200)
async def ticks(stream: EventStream) -> None:
    assert_type(await stream.send("x"), bool)


async def summary(team: str, days: int = 7) -> list[Item]:
    return []


SUMMARY = Poll(summary, interval=30.0)
SUMMARY(team="a")
SUMMARY(team="a", days=3)
SUMMARY(team=7)  # wrong
SUMMARY(tema="a")  # wrong

inner: APIRouter = live
app.include_router(live, prefix="/api")
live.install(app, problems="everything")  # wrong
