"""Who is answered what: tags, rights that are asked again, what runs after an answer."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest
from fastapi import BackgroundTasks, Depends, Request

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.feeds import Change, Origin, Page
from headwater.web import _rights as rights_module
from headwater.web.fastapi import LiveRouter, Problem, Source, identify
from support.application import Application
from support.http import request
from support.server import serving


def anyone() -> None: ...


class Rig:
    """One application with one guarded feed, ``/f``, of the topic that the test says."""

    def __init__(self, right=anyone, **options) -> None:
        self.live = LiveRouter(**options)
        self.app = Application(self.live)
        self.log = MemoryLog()
        self.topic = "a"
        self.ran = asyncio.Event()

        @self.live.feed("/f", item=dict, requires=Depends(right))
        async def f(request: Request, tasks: BackgroundTasks) -> Source:
            async def task():
                self.ran.set()

            tasks.add_task(task)
            return self.log.topic(request.headers.get("x-user", self.topic))


async def test_what_two_callers_see_at_one_address_has_two_tags():
    rig = Rig()
    for who in ("ann", "bob"):
        await rig.log.append(who, {"of": who})
    async with serving(rig.app) as port:
        async with request(port, "/f", headers={"X-User": "ann"}) as answer:
            tag = answer.headers["etag"]
        headers = {"X-User": "bob", "If-None-Match": tag}
        async with request(port, "/f", headers=headers) as answer:
            assert answer.status == 200
            assert json.loads(await answer.body())["items"][0]["of"] == "bob"


class Once(Origin):
    """Is made for one request, as a careless handler does it."""

    async def attach(self, sink): ...

    async def detach(self): ...

    async def epoch(self):
        return "1"


class Whose(Source):
    """Two of them have the same revision when nothing was written."""

    def __init__(self, who: str) -> None:
        self.origin = Once()
        self.who = who

    async def page(self, limit, *, after=None, before=None):
        return Page([Change(None, {}, {"of": self.who})], "0", "0", has_more=False, epoch="1")

    async def locate(self, epoch, place):
        return place

    async def revision(self):
        return 1


async def test_a_tag_is_that_of_one_caller_also_when_memory_is_used_again():
    """A browser keeps the page of an account, and asks with its tag after another one signed in."""
    live = LiveRouter()

    @live.feed("/f", item=dict)
    async def f(request: Request) -> Source:
        return Whose(request.headers["x-user"])

    tags = ["none"]
    async with serving(Application(live)) as port:
        for number in range(20):
            headers = {"X-User": str(number), "If-None-Match": ", ".join(tags)}
            async with request(port, "/f", headers=headers) as answer:
                assert answer.status == 200
                tags.append(answer.headers["etag"])
            gc.collect(1)  # a full collection of the whole suite takes a second


async def test_a_guard_that_reads_the_session_of_a_middleware_is_asked_again():
    signed_in = [True]

    class Session:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app({**scope, "session": {"user": 1}}, receive, send)

    def right(request: Request):
        identify(request, f"user:{request.session['user']}")
        if not signed_in[0]:
            raise Problem(401, "sign in")

    rig = Rig(right)
    rig.app.add_middleware(Session)
    async with serving(rig.app) as port, request(port, "/f/stream") as answer:
        await answer.next()
        signed_in[0] = False
        await rig.live.recheck("user:1")
        (last,) = await answer.rest()
        assert json.loads(last.data) == {"status": 401}


async def test_what_a_stream_may_see_is_compared_with_what_it_began_with():
    """Not with what another stream of the same caller began with."""

    def right(request: Request):
        identify(request, "user:1")

    rig = Rig(right)
    async with serving(rig.app) as port, request(port, "/f/stream") as first:
        await first.next()
        rig.topic = "a-and-more"
        async with request(port, "/f/stream") as second:
            await second.next()
            rig.topic = "a"
            await rig.live.recheck("user:1")
            assert await second.rest() == []
            assert not first.ended


async def test_a_check_that_hangs_does_not_keep_others_from_being_asked(monkeypatch):
    monkeypatch.setattr(rights_module, "_CHECK_TIMEOUT", 0.05)
    denied, hanging = [], asyncio.Event()

    async def right(request: Request):
        who = request.headers["x-user"]
        if who in denied:
            raise Problem(403, "no")
        if who == "slow" and denied:
            hanging.set()
            await asyncio.Event().wait()

    rig = Rig(right, recheck=0.02)
    async with (
        serving(rig.app) as port,
        request(port, "/f/stream", headers={"X-User": "slow"}) as slow,
        request(port, "/f/stream", headers={"X-User": "bob"}) as bob,
    ):
        await slow.next()
        await bob.next()
        denied.append("nobody")
        await hanging.wait()
        denied.append("bob")
        (last,) = await bob.rest()
        assert json.loads(last.data) == {"status": 403}
        assert not slow.ended


@pytest.mark.parametrize("path", ["/f", "/f/stream"])
async def test_background_tasks_of_a_feed_run(path):
    rig = Rig()
    async with serving(rig.app) as port:
        async with request(port, path) as answer:
            await answer.read_some()
        await asyncio.wait_for(rig.ran.wait(), 10)


async def test_a_page_after_a_position_follows_nothing_unless_it_waits():
    rig = Rig()
    await rig.log.append("a", {"n": 1})
    async with serving(rig.app) as port:
        async with request(port, "/f") as answer:
            position = json.loads(await answer.body())["position"]
        for wait, followed in (("", 0), ("&wait=0.01", 1)):
            async with request(port, f"/f?after={position}{wait}") as answer:
                assert json.loads(await answer.body())["items"] == []
            assert len(rig.live.hub.readers) == followed


async def test_heartbeats_come_as_events_to_a_client_that_asks_for_them():
    """A browser's EventSource hides comments, so a page could not notice a dead line."""
    rig = Rig(heartbeat=0.05)
    await rig.log.append("a", {"n": 1})
    event = b'event: heartbeat\ndata: {"event":"item","interval":0.05}\n\n'
    async with serving(rig.app) as port:
        async with request(port, "/f/stream?heartbeat=event") as answer:
            await answer.until(event + event)
            # The first word is one, so that the page knows the names of what follows.
            assert answer.raw.index(event) < answer.raw.index(b"event: snapshot")
            assert b": heartbeat\n\n" not in answer.raw.replace(b"event: heartbeat", b"")
        async with request(port, "/f/stream") as answer:
            await answer.until(b": heartbeat\n\n")
            assert b"event: heartbeat" not in answer.raw


def test_a_feed_cannot_call_its_events_heartbeats():
    with pytest.raises(DeclarationError, match="heartbeat"):
        LiveRouter().feed("/f", item=dict, event="heartbeat")(lambda: None)
