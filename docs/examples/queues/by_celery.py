"""An export that a Celery worker produces, and that a page follows.

celery -A by_celery:queue worker
uvicorn by_celery:app
"""

import os
import time

from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel

from headwater.eventlog import open_log
from headwater.runs import SyncRun
from headwater.web.fastapi import LiveRouter, Runs

BROKER = os.environ.get("BROKER", "redis://localhost:6379/0")

queue = Celery("exports", broker=BROKER)
# The log may be another one: only ids go through the queue.
runs = Runs(open_log(BROKER))
live = LiveRouter()


class Order(BaseModel):
    rows: int


async def user_id() -> str:
    return "ann"  # from your session


def enqueue(run_id: str) -> None:
    export.delay(run_id)


@live.run("/exports", runs, owner=user_id, start=enqueue)
async def order(order: Order) -> Order:
    return order  # what the worker finds in `run.input`


@queue.task
def export(run_id: str) -> None:
    with runs.attempt(run_id) as run:  # a second delivery is refused
        write(run, run.input["rows"])


def write(run: SyncRun, rows: int) -> None:
    for row in range(rows):
        time.sleep(0.02)  # your work
        run.send("progress", {"row": row})  # raises RunCancelled
    run.result({"rows": rows})


app = FastAPI()
app.include_router(live)
