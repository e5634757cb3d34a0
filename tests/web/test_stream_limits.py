"""How many streams and polls one caller, one address and all may have, and what happens above."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import EventStream, LiveRouter, StreamLimits, guard, identify
from support.http import request
from support.server import serving
from support.until import until


class Item(BaseModel):
    n: int


class Rig:
    """A feed and a streaming route; a caller says who it is, and where it comes from."""

    def __init__(self, **limits) -> None:
        self.log = MemoryLog()
        self.app = FastAPI()
        self.live = LiveRouter(limits=StreamLimits(**limits))

        async def known(request: Request):
            who = request.headers.get("who")
            if who:
                identify(request, f"user:{who}")

        @self.live.feed("/things", item=Item, requires=guard(known))
        async def things():
            return self.log.topic("things")

        @self.live.get("/events", sse=True, dependencies=[Depends(known)])
        async def events(stream: EventStream):
            stream.keep_alive()

        self.app.include_router(self.live)

    @property
    def stats(self):
        return self.live.stats


PATHS = {"feed": "/things/stream", "sse": "/events", "poll": "/things?wait=30"}


class Crowd:
    """Opens requests that go on until the test ends."""

    def __init__(self, port: int, stack: AsyncExitStack) -> None:
        self.port = port
        self.stack = stack

    async def open(self, path: str = PATHS["feed"], *, who: str = "", at: str = ""):
        headers = {"Who": who} if who else {}
        if at:
            headers["X-Forwarded-For"] = at
        return await self.stack.enter_async_context(request(self.port, path, headers=headers))

    def poll(self, **options) -> asyncio.Task:
        task = asyncio.create_task(self.open(PATHS["poll"], **options))
        self.stack.callback(task.cancel)
        return task


async def refused(answer, words: str) -> None:
    """A stream that could not be opened: its client comes back by itself."""
    body = (await answer.body()).decode()
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert 5 <= int(answer.headers["retry-after"]) <= 10
    assert 5000 <= answer.retry <= 10_000
    assert words in body
    assert "data:" not in body


@pytest.fixture
async def crowd_of():
    async with AsyncExitStack() as stack:

        async def made(rig: Rig, **options) -> Crowd:
            port = await stack.enter_async_context(serving(rig.app, **options))
            return Crowd(port, await stack.enter_async_context(AsyncExitStack()))

        yield made


@pytest.mark.parametrize("kind", ["feed", "sse"])
async def test_a_caller_has_so_many_streams(crowd_of, kind: str):
    rig = Rig(per_caller=3)
    crowd = await crowd_of(rig)
    answers = [await crowd.open(PATHS[kind], who="ann") for _ in range(3)]
    await refused(await crowd.open(PATHS[kind], who="ann"), "this user has 3 open streams")
    await until(lambda: rig.stats.open == 3)
    assert rig.stats.limited == 1
    assert (
        "this user" not in (await (await crowd.open(PATHS[kind], who="bob")).read_some()).decode()
    )
    # Streams of nobody are not a caller's.
    for _ in range(4):
        await crowd.open(PATHS[kind])
    answers[0].leave()
    await until(lambda: rig.stats.open == 7)
    again = await crowd.open(PATHS[kind], who="ann")
    await again.read_some()
    await until(lambda: rig.stats.open == 8)


async def test_polls_that_wait_count_like_streams(crowd_of):
    rig = Rig(per_caller=2)
    crowd = await crowd_of(rig)
    await crowd.open(who="ann")
    waiting = crowd.poll(who="ann")
    await until(lambda: rig.stats.waiting == 1)
    answer = await crowd.open(PATHS["poll"], who="ann")
    assert answer.status == 429
    problem = json.loads(await answer.body())
    assert problem["detail"] == "This user has 2 open streams and polls, as many as it may."
    assert 5 <= int(answer.headers["retry-after"]) <= 10
    await refused(await crowd.open(who="ann"), "this user has 2")
    # One that waits for nothing has no place.
    assert (await crowd.open("/things", who="ann")).status == 200
    await rig.log.append("things", [{"n": 1}])
    answer = await waiting
    assert answer.status == 200
    await crowd.open(who="ann")
    await until(lambda: rig.stats.open == 2)


async def test_a_poll_whose_client_leaves_gives_its_place_back(crowd_of):
    rig = Rig(per_caller=1)
    crowd = await crowd_of(rig)
    for _ in range(3):
        waiting = crowd.poll(who="ann")
        await until(lambda: rig.stats.waiting == 1)
        waiting.cancel()
        await until(lambda: rig.stats.waiting == 0)
    assert rig.stats.limited == 0


async def test_an_address_has_so_many(crowd_of):
    """Through a trusted proxy each client has its own; an IPv6 client's is its /64."""
    rig = Rig(per_address=2)
    crowd = await crowd_of(rig)
    for at, then in (
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"),
    ):
        for who in ("ann", "bob"):
            await crowd.open(at=at, who=who)
        await refused(await crowd.open(at=then, who="cy"), "this address has 2")
        waiting = await crowd.open(PATHS["poll"], at=then)
        assert waiting.status == 429
    await (await crowd.open(at="192.0.2.2")).read_some()
    await (await crowd.open(at="2001:db8:1:3::1")).read_some()
    # The proxy itself is exempt: it may be one that tells no addresses.
    for _ in range(4):
        await crowd.open()
    await until(lambda: rig.stats.open == 10)


async def test_all_have_so_many_together(crowd_of):
    rig = Rig(total=3)
    crowd = await crowd_of(rig)
    for who in ("ann", "bob", ""):
        await crowd.open(who=who)
    await refused(await crowd.open(who="cy"), "this server has 3")


async def test_many_at_once_do_not_outrun_the_limit(crowd_of):
    """The place is taken before the first read, not when the stream is there."""
    rig = Rig(per_caller=5)
    crowd = await crowd_of(rig)
    answers = await asyncio.gather(*(crowd.open(who="ann") for _ in range(40)))
    await until(lambda: rig.stats.open + rig.stats.limited == 40)
    assert rig.stats.open == 5
    for answer in answers:
        answer.leave()
    await until(lambda: rig.stats.open == 0)
    for _ in range(5):
        await (await crowd.open(who="ann")).read_some()


async def test_a_stream_that_could_not_be_opened_takes_no_place(crowd_of, monkeypatch):
    from headwater.errors import SourceUnavailableError

    rig = Rig(per_caller=1)
    crowd = await crowd_of(rig)
    whole = MemoryLog.topic

    def away(self, name):
        raise SourceUnavailableError("The log", "away")

    with monkeypatch.context() as patched:
        patched.setattr(MemoryLog, "topic", away)
        for _ in range(3):
            await (await crowd.open(who="ann")).body()
    assert MemoryLog.topic is whole
    await (await crowd.open(who="ann")).read_some()
    await until(lambda: rig.stats.open == 1)


async def test_the_defaults_are_fifty_and_two_hundred(crowd_of):
    rig = Rig()
    crowd = await crowd_of(rig)
    for _ in range(50):
        await crowd.open(who="ann")
    await refused(await crowd.open(who="ann"), "this user has 50")
    for number in range(200):
        await crowd.open(at="192.0.2.1", who=f"{number}")
    await refused(await crowd.open(at="192.0.2.1"), "this address has 200")


@pytest.mark.parametrize("wrong", [{"per_caller": 0}, {"per_address": -1}, {"total": "many"}])
def test_a_limit_that_cannot_be(wrong):
    (name,) = wrong
    with pytest.raises(DeclarationError, match=rf"StreamLimits\({name}=.*at least 1"):
        StreamLimits(**wrong)


async def test_limits_that_are_none():
    with pytest.raises(DeclarationError, match=r"limits=50: write StreamLimits\(...\)"):
        LiveRouter(limits=50)
