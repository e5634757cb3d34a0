"""An ASGI application's lifespan, for a test without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["lifespan"]

_WITHIN = 30.0


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    """Start the application as a server does, and end it with the block.

    Gives the state that the application filled for its requests. Raises AssertionError when the
    application reports a failure, or answers nothing for 30 s.
    """
    state: dict[str, Any] = {}
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    task = asyncio.create_task(app(scope, events.get, answers.put))

    async def send(event: str, failure: str) -> None:
        events.put_nowait({"type": f"lifespan.{event}"})
        answer = asyncio.ensure_future(answers.get())
        try:
            await asyncio.wait({answer, task}, timeout=_WITHIN, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                if answer.result()["type"].endswith(".failed"):
                    raise AssertionError(f"{failure}: {answer.result().get('message', '')}")
            # By the ASGI specification an application that raises at the start has no lifespan.
            elif not task.done():
                task.cancel()
                raise AssertionError(f"the application answers no {event} for {_WITHIN:g} s")
        finally:
            answer.cancel()

    await send("startup", "the application did not start")
    try:
        yield state
    finally:
        await send("shutdown", "the application failed while it ended")
