"""Plain ASGI under uvicorn, a queue for each stream, each frame sent alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from trigger import Rooms, payload


class Frames(Rooms):
    """Encoded once for all streams: the best that this way can do."""

    def make(self, seq: int) -> bytes:
        data = json.dumps(payload(seq), separators=(",", ":"))
        return f"event: log\nid: {seq}\ndata: {data}\n\n".encode()


rooms = Frames()
HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")],
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await rooms.listen()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    group = int(scope["path"][1:])
    queue = rooms.join(group)
    pump = asyncio.ensure_future(_pump(queue, send))
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        pump.cancel()
        rooms.leave(group, queue)


async def _pump(queue: asyncio.Queue[bytes], send: Any) -> None:
    await send(HEAD)
    await send({"type": "http.response.body", "body": b"retry: 20\n\n", "more_body": True})
    while True:
        await send({"type": "http.response.body", "body": await queue.get(), "more_body": True})
