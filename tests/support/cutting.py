"""Cuts the answers of an application after a number of frames, as a broken network would."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

_FRAME = re.compile(rb".*?(?:\r\n|\n)(?:\r\n|\n)", re.DOTALL)


class Cutter:
    """An application whose connections end too early. uvicorn says that they are incomplete.

    Attributes:
        limit: is called with the scope and the body of each request, and says after how many
            frames of the answer the client is gone; None for never.
    """

    def __init__(self, app: Any, limit: Callable[[Any, bytes], int | None]) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        first = await receive()
        limit = self.limit(scope, first.get("body", b""))
        receive = _after(first, receive)
        if limit is not None:
            receive, send = _cut(limit, receive, send)
        await self.app(scope, receive, send)


def _after(first: Any, receive: Any) -> Any:
    messages = [first]

    async def received() -> Any:
        return messages.pop() if messages else await receive()

    return received


def _cut(limit: int, receive: Any, send: Any) -> tuple[Any, Any]:
    gone = asyncio.Event()
    left = limit

    async def cut_receive() -> Any:
        tasks = {asyncio.ensure_future(receive()), asyncio.ensure_future(gone.wait())}
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        result = done.pop().result()
        return {"type": "http.disconnect"} if result is True else result

    async def cut_send(message: Any) -> None:
        nonlocal left
        if gone.is_set():
            return
        body = message.get("body", b"")
        frames = _FRAME.findall(body)[:left]
        left -= len(frames)
        if body and not left:
            message = {**message, "body": b"".join(frames), "more_body": True}
        if message["type"] != "http.response.body" or message["body"] or left:
            await send(message)
        if not left and message["type"] == "http.response.body":
            gone.set()

    return cut_receive, cut_send
