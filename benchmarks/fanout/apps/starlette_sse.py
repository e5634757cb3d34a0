"""sse-starlette under uvicorn, as its documentation shows it: a generator over a queue."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from trigger import Rooms

rooms = Rooms()


async def events(request: Request) -> EventSourceResponse:
    group = request.path_params["group"]

    async def generate() -> AsyncIterator[dict[str, Any]]:
        queue = rooms.join(group)
        try:
            while True:
                seq, data = await queue.get()
                text = json.dumps(data, separators=(",", ":"))
                yield {"id": str(seq), "event": "log", "data": text}
        finally:
            rooms.leave(group, queue)

    return EventSourceResponse(generate())


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    await rooms.listen()
    yield


app = Starlette(routes=[Route("/{group:int}", events)], lifespan=lifespan)
