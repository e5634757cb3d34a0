"""A page of long items has fewer of them, and nothing is lost: pages, snapshots, catching up."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import sqlalchemy as sa
from fastapi import Request
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine

from headwater import Poll
from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.sql import Table, sqlite_engine, track
from headwater.web.fastapi import LiveRouter, StreamLimits, guard, identify
from support.application import Application
from support.http import request
from support.server import serving
from support.until import until

MOST = 4096
MEGABYTE = 1024 * 1024
# Items of about a quarter of that, one that is longer alone, and short ones.
SIZES = [*[1000] * 9, 3 * MOST, *[10] * 30, *[1000] * 5]


class Item(BaseModel):
    n: int
    text: str = ""


def thing(number: int) -> dict[str, object]:
    return {"n": number, "text": "x" * SIZES[number % len(SIZES)]}


class Rig:
    """One feed, ``/things``, and a way to add to it."""

    def __init__(self, source, add, keyed=False, requires=None, **limits) -> None:
        self.add = add
        self.live = LiveRouter(limits=StreamLimits(**{"page_bytes": MOST} | limits))
        self.app = Application(self.live)

        @self.live.feed("/things", item=Item, keyed=keyed, requires=requires)
        async def things():
            return source


@asynccontextmanager
async def topic(_request, _path, **limits):
    log = MemoryLog()

    async def add(*numbers: int) -> None:
        await log.append("t", [thing(number) for number in numbers])

    yield Rig(log.topic("t"), add, **limits)


@asynccontextmanager
async def table(request, path, **limits):
    metadata = sa.MetaData()
    things = sa.Table(
        "things",
        metadata,
        sa.Column("n", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text),
    )
    track()(things)
    if request.param == "sqlite":
        engine = sqlite_engine(f"sqlite:///{path}/data.db")
    else:
        postgres = request.getfixturevalue("postgres")
        engine = create_async_engine(postgres.url(postgres.database()))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)

    async def add(*numbers: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(things.insert(), [thing(number) for number in numbers])

    try:
        yield Rig(Table(engine, things).where(), add, **limits)
    finally:
        await engine.dispose()


@pytest.fixture(params=["topic", "sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
async def rig(request, tmp_path):
    made = topic if request.param == "topic" else table
    async with made(request, tmp_path) as rig:
        yield rig


async def read(port, path):
    async with request(port, path) as answer:
        page = json.loads(await answer.body())
        return page, [each["n"] for each in page["items"]]


def fits(numbers) -> bool:
    sizes = [len(json.dumps(thing(n), separators=(",", ":"))) for n in numbers]
    return len(sizes) == 1 or sum(sizes) <= MOST


async def test_pages_in_both_directions_hold_everything_once(rig):
    every = list(range(len(SIZES)))
    await rig.add(*every)
    async with serving(rig.app) as port:
        page, back = await read(port, "/things?limit=100")
        assert page["has_more"]
        assert fits(back)
        while page["has_more"]:
            page, numbers = await read(port, f"/things?limit=100&before={page['start']}")
            assert numbers
            assert fits(numbers)
            back = numbers + back
        assert back == every
        forth = every[: len(page["items"])]
        while page["has_more"] or forth[-1] < every[-1]:
            page, numbers = await read(port, f"/things?limit=100&after={page['position']}")
            assert numbers
            assert fits(numbers)
            forth += numbers
        assert forth == every
        assert not page["has_more"]


async def test_a_snapshot_is_bounded_and_a_stream_that_comes_back_gets_all(rig):
    await rig.add(*range(12))
    async with serving(rig.app) as port:
        page, numbers = await read(port, "/things?limit=100")
        async with request(port, "/things/stream?limit=100") as answer:
            snapshot = await answer.next()
            assert json.loads(snapshot.data) == page
            assert fits(numbers)
        missed = list(range(12, 12 + 3 * len(SIZES)))
        await rig.add(*missed)
        headers = {"Last-Event-ID": snapshot.last_event_id}
        # More than the ring may hold for others: it is read from the source again.
        async with request(port, "/things/stream", headers=headers) as answer:
            found = [json.loads((await answer.next()).data)["n"] for _ in missed]
            assert found == missed
            await rig.add(1000)
            assert json.loads((await answer.next()).data)["n"] == 1000


class CountedLog(MemoryLog):
    """Remembers how many records were read at most, by each read."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    async def read(self, topic, after, limit):
        self.limits.append(limit)
        return await super().read(topic, after, limit)

    async def latest(self, topic, limit, before=None):
        self.limits.append(limit)
        return await super().latest(topic, limit, before)


async def test_reads_of_long_items_ask_for_few_and_of_short_ones_for_all():
    """Otherwise each page costs the memory and the time of a hundred long items."""
    log = CountedLog()
    rig = Rig(log.topic("t"), None)
    await log.append("t", [{"n": 0}])
    async with serving(rig.app) as port:
        page, _ = await read(port, "/things")
        for length, fit in [(1000, 4), (1, 100), (1000, 4)]:
            after = page["position"]
            await log.append("t", [{"n": n, "text": "x" * length} for n in range(100)])
            for path in ("/things?limit=100", f"/things?limit=100&after={after}"):
                await read(port, path)  # it learns the length
                log.limits.clear()
                _, numbers = await read(port, path)
                assert len(numbers) == fit
                # The engine reads one more, to know whether there are more.
                assert log.limits[0] <= 2 * fit, log.limits
            page, _ = await read(port, "/things?limit=1")


async def test_a_poll_s_newest_items_alone_are_in_a_page_and_its_changes_stay_together():
    """A state has no older pages, and a client has either all changes of a state or none."""
    state = [thing(number) for number in range(9)]

    async def read_state():
        return list(state)

    rig = Rig(Poll(read_state, interval=0.05, key="n")(), None, keyed=True)
    async with serving(rig.app) as port:
        page, numbers = await read(port, "/things")
        assert numbers == list(range(9))[-len(numbers) :]
        assert page["has_more"]
        assert fits(numbers)
        async with request(port, "/things/stream") as answer:
            assert json.loads((await answer.next()).data) == page
            state += [thing(number) for number in range(10, 24)]
            found = [json.loads((await answer.next()).data)["n"] for _ in range(14)]
            assert found == list(range(10, 24))
        page, numbers = await read(port, f"/things?after={page['position']}")
        assert numbers == list(range(10, 24))


@pytest.mark.parametrize("http", ["headwater.web.uvicorn:Protocol", "h11"])
async def test_streams_that_are_not_read_are_bounded_in_all(http):
    """Each holds one page; when all are too much, that which took nothing for longest is ended."""
    # More than the kernel takes of a connection that is not read.
    log, page = MemoryLog(), 8 * MEGABYTE
    await log.append("t", [{"n": n, "text": "x" * 100_000} for n in range(100)])
    rig = Rig(log.topic("t"), None, page_bytes=page, unread_bytes=16 * MEGABYTE)
    async with serving(rig.app, http=http) as port, AsyncExitStack() as stack:
        path = "/things/stream?limit=100"
        for number in range(1, 7):
            await stack.enter_async_context(request(port, path, receive_buffer=4096))
            await until(lambda number=number: rig.live.stats.opened == number)
        await until(lambda: rig.live.stats.open <= 4)
        stats = rig.live.stats
        assert stats.stalled == 6 - stats.open
        assert stats.open >= 2
        async with request(port, path) as answer:
            assert len(json.loads((await answer.next()).data)["items"]) > 70


async def test_only_the_greediest_loses_streams():
    """A caller with many streams that are not read takes no room from a slow one of another."""
    log, page = MemoryLog(), 8 * MEGABYTE
    await log.append("t", [{"n": n, "text": "x" * 100_000} for n in range(100)])

    async def named(request: Request) -> None:
        identify(request, request.headers["x-user"])

    rig = Rig(
        log.topic("t"), None, page_bytes=page, unread_bytes=16 * MEGABYTE, requires=guard(named)
    )
    path = "/things/stream?limit=100"
    async with serving(rig.app) as port, AsyncExitStack() as stack:
        for number, who in enumerate("abbb", 1):
            headers = {"X-User": who}
            await stack.enter_async_context(
                request(port, path, headers=headers, receive_buffer=4096)
            )
            await until(lambda number=number: rig.live.stats.opened == number)
        await until(lambda: rig.live.stats.stalled)
        assert ("a",) in [each.subjects for each in rig.live.streams()]


@pytest.mark.parametrize("wrong", [{"page_bytes": 0}, {"unread_bytes": None}])
def test_a_bound_that_cannot_be(wrong):
    (name,) = wrong
    with pytest.raises(DeclarationError, match=rf"StreamLimits\({name}=.*at least 1024"):
        StreamLimits(**wrong)
