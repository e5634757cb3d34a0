"""An export that an arq worker produces, and that a page follows.

arq by_arq.WorkerSettings
uvicorn by_arq:app
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI
from pydantic import BaseModel

from headwater.eventlog import open_log
from headwater.web.fastapi import LiveRouter, Run, Runs

BROKER = os.environ.get("BROKER", "redis://localhost:6379/0")

# The log may be another one: only ids go through the queue.
runs = Runs(open_log(BROKER))
live = LiveRouter()


class Order(BaseModel):
    rows: int


async def user_id() -> str:
    return "ann"  # from your session


async def enqueue(run_id: str) -> None:
    await app.state.queue.enqueue_job("export", run_id)


@live.run("/exports", runs, owner=user_id, start=enqueue)
async def order(order: Order) -> Order:
    return order  # what the worker finds in `run.input`


async def export(_: dict[str, Any], run_id: str) -> None:
    async with runs.attempt(run_id) as run:  # a second delivery is refused
        await write(run, run.input["rows"])


async def write(run: Run, rows: int) -> None:
    for row in range(rows):
        await asyncio.sleep(0.02)  # your work
        await run.send("progress", {"row": row})
    await run.result({"rows": rows})


async def on_shutdown(_: dict[str, Any]) -> None:
    await runs.close()


class WorkerSettings:
    functions = (export,)
    on_shutdown = on_shutdown
    redis_settings = RedisSettings.from_dsn(BROKER)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.queue = await create_pool(WorkerSettings.redis_settings)
    yield
    await app.state.queue.aclose()


app = FastAPI(lifespan=lifespan)
app.include_router(live)
