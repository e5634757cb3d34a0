"""An export that a taskiq worker produces, and that a page follows.

taskiq worker by_taskiq:queue
uvicorn by_taskiq:app
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import ListQueueBroker

from headwater.eventlog import open_log
from headwater.web.fastapi import LiveRouter, Run, Runs

BROKER = os.environ.get("BROKER", "redis://localhost:6379/0")

queue = ListQueueBroker(BROKER)
# The log may be another one: only ids go through the queue.
runs = Runs(open_log(BROKER))
live = LiveRouter()


class Order(BaseModel):
    rows: int


async def user_id() -> str:
    return "ann"  # from your session


async def enqueue(run_id: str) -> None:
    await export.kiq(run_id)


@live.run("/exports", runs, owner=user_id, start=enqueue)
async def order(order: Order) -> Order:
    return order  # what the worker finds in `run.input`


@queue.task
async def export(run_id: str) -> None:
    async with runs.attempt(run_id) as run:  # a second delivery is refused
        await write(run, run.input["rows"])


async def write(run: Run, rows: int) -> None:
    for row in range(rows):
        await asyncio.sleep(0.02)  # your work
        await run.send("progress", {"row": row})
    await run.result({"rows": rows})


@queue.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close(_: TaskiqState) -> None:
    await runs.close()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await queue.startup()
    yield
    await queue.shutdown()


app = FastAPI(lifespan=lifespan)
app.include_router(live)
