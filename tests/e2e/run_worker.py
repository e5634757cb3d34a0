"""One of several workers that serve runs from the log at ``LOG``, for uvicorn."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from pydantic import BaseModel

from headwater.eventlog import open_log
from headwater.web.fastapi import LiveRouter, Run, Runs, StreamLimits

log = open_log(os.environ["LOG"])
runs = Runs(log, grace=2.0)
live = LiveRouter(limits=StreamLimits(per_address=None))


class Work(BaseModel):
    """What a run does.

    Attributes:
        words: how many numbers it writes.
        seconds: after which it returns.
        room: its group.
        stubborn: it takes no notice of being cancelled.
    """

    words: int = 0
    seconds: float = 0.0
    room: str | None = None
    stubborn: bool = False


def user(request: Request) -> str:
    return request.headers.get("X-User", "ann")


async def work(run: Run, work: Work) -> int:
    for n in range(work.words):
        await run.delta(f"{n} ")
        if n % 7 == 0:
            await run.send("mark", n)
        await asyncio.sleep(random.choice((0, 0, 0.01)))  # the pace of a model
    until = asyncio.get_running_loop().time() + work.seconds
    while (left := until - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            if not work.stubborn:
                raise
    return os.getpid()


live.run("/works", runs, owner=user, group="room", busy="reject")(work)
live.run("/latest", runs, owner=user, group="room", busy="cancel")(work)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await runs.close()
    await log.close()


app = FastAPI(lifespan=lifespan)
app.include_router(live, prefix="/api")
