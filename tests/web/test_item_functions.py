"""``item=`` as an async function of a batch of rows: for what SQL cannot say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater import Hub
from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.feeds import Feed
from headwater.sql import LiveQuery, Table, sqlite_engine, track
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving
from support.streams import StreamClient
from support.until import until


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class JobItem(BaseModel):
    id: int
    owner: str = Field(alias="ownerName")


class Owners:
    """Another service: knows who owns which job, and notes what it was asked."""

    def __init__(self):
        self.asked = []
        self.fault = None

    def function(self):
        async def items(rows: list[Mapping]) -> list[JobItem]:
            self.asked.append([row["id"] for row in rows])
            if self.fault == "raises":
                raise ConnectionError("secret of the owners' service")
            if self.fault == "awaits what was cancelled":
                raise asyncio.CancelledError("secret of a shared look-up")
            found = [{"id": row["id"], "ownerName": f"owner of {row['name']}"} for row in rows]
            if self.fault == "short":
                return found[1:]
            if self.fault is not None:
                found = [
                    item | {"ownerName": None} if item["id"] == self.fault else item
                    for item in found
                ]
            return found

        return items


@pytest.fixture(params=["table", "query"])
async def rig(request, tmp_path):
    """A port with the jobs as two feeds, the owners, and a function that runs statements."""
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    owners, live = Owners(), LiveRouter()
    if request.param == "table":
        source = Table(engine, Job)
    else:
        source = LiveQuery(engine, select(Job.id, Job.name), key=["id"])
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(
            sa.insert(Job).values([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}])
        )
    options = {"collection": "jobs", "event": "job", "keyed": True, "retry": 50}

    @live.feed("/jobs", item=owners.function(), **options)
    async def jobs() -> Source:
        return source.where()

    @live.feed("/skipping", item=owners.function(), on_invalid="skip", **options)
    async def skipping() -> Source:
        return source.where()

    async def run(*statements):
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(statement)

    async with serving(Application(live, prefix="/api")) as port:
        yield port, owners, run
    await engine.dispose()


def insert(*numbers):
    return sa.insert(Job).values([{"id": n, "name": f"n{n}"} for n in numbers])


async def body_of(port, path):
    async with request(port, path) as answer:
        return answer.status, json.loads(await answer.body())


async def test_it_is_called_once_for_a_batch_whatever_the_number_of_streams(rig):
    port, owners, run = rig
    status, page = await body_of(port, "/api/jobs")
    assert (status, page["jobs"][0]) == (200, {"id": 1, "ownerName": "owner of a"})
    async with request(port, "/api/jobs/stream") as one, request(port, "/api/jobs/stream") as two:
        assert json.loads((await one.next()).data) == json.loads((await two.next()).data) == page
        owners.asked.clear()
        await run(insert(3, 4, 5))
        for answer in (one, two):
            events = [await answer.next() for _ in range(3)]
            assert [json.loads(event.data)["id"] for event in events] == [3, 4, 5]
        assert owners.asked == [[3, 4, 5]]
        await run(sa.delete(Job).where(Job.id == 4))
        assert json.loads((await one.next()).data) == {"id": 4}
        assert owners.asked == [[3, 4, 5]]


@pytest.mark.parametrize("fault", ["raises", "awaits what was cancelled", "short", 3])
async def test_the_feed_waits_where_it_fails_and_goes_on_once_it_is_mended(rig, fault):
    port, owners, run = rig
    async with request(port, "/api/jobs/stream") as answer:
        position = json.loads((await answer.next()).data)["position"]
        owners.fault = fault
        await run(insert(3))
        error = (await answer.rest())[-1]
        assert (error.event, json.loads(error.data)) == ("error", {"status": 500})
    status, problem = await body_of(port, "/api/jobs")
    assert status == 500
    assert "secret" not in json.dumps(problem)
    owners.fault = None
    headers = {"Last-Event-ID": position}
    async with request(port, "/api/jobs/stream", headers=headers) as answer:
        assert json.loads((await answer.next()).data)["id"] == 3


async def test_an_item_that_does_not_fit_is_skipped_but_a_failing_function_holds(rig):
    port, owners, run = rig
    async with request(port, "/api/skipping/stream") as answer:
        await answer.next()
        owners.fault = 3
        await run(insert(3, 4))
        events = [await answer.next() for _ in range(2)]
        assert [event.event for event in events] == ["job_removed", "job"]
        owners.fault = "raises"
        await run(insert(5))
        assert (await answer.rest())[-1].event == "error"
    status, _ = await body_of(port, "/api/skipping")
    assert status == 500


async def test_while_it_is_slow_other_feeds_go_on_and_what_is_too_much_is_read_again():
    log, hub, go = MemoryLog(), Hub(), asyncio.Event()
    held = []

    async def slow(rows):
        held.append(len(rows))
        await go.wait()
        return rows

    feed = Feed("slow", collection="ticks", event="tick", function=slow)
    plain = Feed("plain", collection="ticks", event="tick")
    one, other = StreamClient(feed), StreamClient(plain)
    topic = log.topic("ticks")
    try:
        go.set()
        await one.connect(hub, topic)
        await other.connect(hub, topic)
        go.clear()
        for at in range(0, 6_000, 500):
            await log.append("ticks", [{"id": n} for n in range(at, at + 500)])
            await until(lambda at=at: other.read() or len(other.told) == at + 500)
        one.read()
        assert not one.told
        go.set()
        await until(lambda: one.read() or len(one.told) == 6_000)
        assert one.told == other.told
        assert not one.resets
    finally:
        await hub.close()


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (None, "say what it returns with the model of one item"),
        (list, "say what it returns with the model of one item"),
        (dict[str, JobItem], "say what it returns with the model of one item"),
    ],
)
def test_a_function_that_does_not_say_its_model_is_refused(annotation, said):
    async def items(rows):
        return rows

    if annotation is not None:
        items.__annotations__["return"] = annotation
    with pytest.raises(DeclarationError, match=said):
        LiveRouter().feed("/x", item=items)


def test_a_plain_function_is_refused():
    def items(rows) -> list[JobItem]:
        return rows

    with pytest.raises(DeclarationError, match="is `async def` and takes a list of rows"):
        LiveRouter().feed("/x", item=items)
