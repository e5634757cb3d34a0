"""FastAPI's own EventSourceResponse under uvicorn, as its documentation shows it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent
from trigger import Rooms

rooms = Rooms()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await rooms.listen()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/{group}", response_class=EventSourceResponse)
async def events(group: int) -> AsyncIterable[ServerSentEvent]:
    queue = rooms.join(group)
    try:
        while True:
            seq, data = await queue.get()
            yield ServerSentEvent(id=str(seq), event="log", data=data)
    finally:
        rooms.leave(group, queue)
