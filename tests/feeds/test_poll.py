"""Polled functions: called once for all who look, and only while somebody does."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import FastAPI

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.feeds import Poll
from headwater.web.fastapi import LiveRouter, Source
from support.http import request
from support.server import serving
from support.until import until


class Rig:
    """An activity summary by team, recomputed for all its streams at once."""

    def __init__(self, *, key="client", interval=0.05, timeout=None) -> None:
        self.calls: list[str] = []
        self.running = 0
        self.state = [{"client": "a", "n": 1}, {"client": "b", "n": 1}]
        self.error: BaseException | None = None
        self.hang: asyncio.Event | None = None

        async def summary(team: str) -> list[dict]:
            self.calls.append(team)
            self.running += 1
            assert self.running <= 1 or team != "one", "called twice at once"
            try:
                if self.hang is not None:
                    await self.hang.wait()
                await asyncio.sleep(0)
                if self.error is not None:
                    raise self.error
                return [dict(each) for each in self.state]
            finally:
                self.running -= 1

        self.poll = Poll(summary, interval=interval, timeout=timeout, key=key)
        self.app = FastAPI()
        self.live = LiveRouter()
        self.app.include_router(self.live, prefix="/api")

        @self.live.feed("/summary", item=dict, event="summary", keyed=key is not None)
        async def feed(team: str = "one") -> Source:
            return self.poll(team=team)


def told(message):
    return message.event, json.loads(message.data)


async def test_it_is_called_once_however_many_streams_follow_and_never_without():
    rig = Rig()
    async with serving(rig.app) as port:
        contexts = [request(port, "/api/summary/stream") for _ in range(10)]
        answers = [await context.__aenter__() for context in contexts]
        for answer in answers:
            assert (await answer.next()).event == "snapshot"
        assert len(rig.calls) < len(answers)
        before = len(rig.calls)
        await until(lambda: len(rig.calls) >= before + 5)
        rig.state[0]["n"] = 2
        for answer in answers:
            message = await answer.next()
            assert told(message) == ("summary", {"client": "a", "n": 2})
            assert message.last_event_id
        for context in contexts:
            await context.__aexit__(None, None, None)
        await until(lambda: rig.live.stats.open == 0)
        hub = rig.live.hub
        await until(lambda: not hub.readers)
        async with request(port, "/api/summary/stream?team=two") as answer:
            await answer.next()
            calls = rig.calls.count("one")
            await until(lambda: rig.calls.count("two") >= 5)
        assert rig.calls.count("one") == calls


async def test_a_change_is_sent_item_by_item_and_an_unchanged_state_not_at_all():
    rig = Rig()
    async with serving(rig.app) as port, request(port, "/api/summary/stream") as answer:
        await answer.next()
        rig.state = [{"client": "b", "n": 1}, {"client": "c", "n": 1}]
        first, second = await answer.next(), await answer.next()
        assert told(first) == ("summary_removed", {"client": "a"})
        assert told(second) == ("summary", {"client": "c", "n": 1})
        # One may resume only from the whole state.
        assert first.last_event_id != second.last_event_id
        assert answer.raw.count(b"\nid: ") == 2
        calls = len(rig.calls)
        await until(lambda: len(rig.calls) > calls + 3)
        rig.state.append({"client": "d", "n": 1})
        assert told(await answer.next()) == ("summary", {"client": "d", "n": 1})


async def test_an_unchanged_state_sends_nothing_after_a_reconnect_either():
    rig = Rig()
    async with serving(rig.app) as port:
        async with request(port, "/api/summary/stream") as answer:
            last = (await answer.next()).last_event_id
        for _ in range(2):
            headers = {"Last-Event-ID": last}
            async with request(port, "/api/summary/stream", headers=headers) as answer:
                rig.state[1]["n"] += 1
                message = await answer.next()
                assert told(message) == ("summary", rig.state[1])
                last = message.last_event_id


async def test_without_a_key_a_change_is_a_new_snapshot():
    rig = Rig(key=None)
    async with serving(rig.app) as port, request(port, "/api/summary/stream") as answer:
        await answer.next()
        rig.state = [{"client": "z", "n": 9}]
        message = await answer.next()
        assert message.event == "snapshot"
        assert json.loads(message.data)["items"] == rig.state
        rig.state = [{"client": "y", "n": 9}]
    headers = {"Last-Event-ID": message.last_event_id}
    async with serving(rig.app) as port:
        async with request(port, "/api/summary/stream", headers=headers) as answer:
            message = await answer.next()
            assert message.event == "snapshot"
            assert json.loads(message.data)["items"] == rig.state


@pytest.mark.parametrize("kind", [RuntimeError, asyncio.CancelledError])
async def test_a_failure_is_counted_and_retried_while_streams_stay_open(caplog, kind):
    """Also where something that the function awaits was cancelled, and not the function."""
    rig = Rig(interval=0.02)
    async with serving(rig.app) as port, request(port, "/api/summary/stream") as answer:
        await answer.next()
        rig.error = kind("the other side is down")
        await until(lambda: rig.poll.failures.in_a_row >= 2)
        assert not answer.ended
        rig.error = None
        rig.state[0]["n"] = 7
        assert told(await answer.next()) == ("summary", {"client": "a", "n": 7})
        assert rig.poll.failures.in_a_row == 0
        assert rig.poll.failures.total >= 2
        assert rig.live.stats.source_failures >= 2
    assert "the other side is down" in caplog.text


async def test_a_call_that_hangs_is_given_up_and_never_doubled():
    rig = Rig(interval=0.02, timeout=0.05)
    async with serving(rig.app) as port, request(port, "/api/summary/stream") as answer:
        await answer.next()
        rig.hang = asyncio.Event()
        await until(lambda: rig.poll.failures.in_a_row >= 2)
        assert "longer than 0.05 s" in (rig.poll.failures.last or "")
        rig.hang.set()
        rig.hang = None
        rig.state[0]["n"] = 8
        assert told(await answer.next())[1]["n"] == 8


async def test_a_first_call_that_fails_is_a_503_and_a_stream_comes_back():
    rig = Rig()
    rig.error = RuntimeError("down")
    async with serving(rig.app) as port:
        async with request(port, "/api/summary") as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"]
        async with request(port, "/api/summary/stream") as answer:
            # Any other status would end a browser's EventSource for good.
            assert answer.status == 200
            assert answer.headers["retry-after"]
            assert await answer.rest() == []
            assert answer.retry


async def test_rest_answers_are_shared_within_an_interval():
    rig = Rig(interval=30.0)
    async with serving(rig.app) as port:
        for _ in range(5):
            async with request(port, "/api/summary") as answer:
                assert len(json.loads(await answer.body())["items"]) == 2
        assert rig.calls == ["one"]


def test_what_cannot_work_is_refused():
    async def fetch(): ...

    with pytest.raises(DeclarationError, match="async function"):
        Poll(lambda: 1)
    with pytest.raises(DeclarationError, match="interval=0"):
        Poll(fetch, interval=0)
    with pytest.raises(DeclarationError, match="timeout=-1"):
        Poll(fetch, timeout=-1)


def test_a_poll_that_was_followed_in_an_event_loop_that_has_ended_is_called_again():
    """Tests run one application in several loops."""
    calls = 0

    async def count() -> list[dict[str, int]]:
        nonlocal calls
        calls += 1
        return [{"calls": calls}]

    poll = Poll(count, interval=1e-6)

    async def follow() -> None:
        await poll().origin.attach(None)

    async def look() -> object:
        return (await poll().page(10)).changes[0].item

    asyncio.run(follow())
    assert asyncio.run(look()) == {"calls": calls}
    assert calls >= 2


async def test_refresh_calls_it_at_once_and_once_more_after_a_call_that_had_begun():
    rig = Rig(interval=600.0)
    async with serving(rig.app) as port:
        async with request(port, "/api/summary/stream") as answer:
            await answer.next()
            rig.state[0]["n"] = 2
            rig.poll.refresh()
            assert told(await answer.next()) == ("summary", {"client": "a", "n": 2})
            rig.hang = asyncio.Event()
            rig.poll.refresh(team="one")
            calls = len(rig.calls)
            await until(lambda: rig.running)
            rig.poll.refresh(team="two")
            rig.state[0]["n"] = 3
            rig.poll.refresh(team="one")
            hang, rig.hang = rig.hang, None
            hang.set()
            assert told(await answer.next()) == ("summary", {"client": "a", "n": 3})
            assert len(rig.calls) <= calls + 2
        async with request(port, "/api/summary") as answer:
            await answer.body()
        rig.state[0]["n"] = 4
        rig.poll.refresh()
        async with request(port, "/api/summary") as answer:
            assert json.loads(await answer.body())["items"][0]["n"] == 4


async def test_changes_of_what_it_depends_on_call_it_again():
    log, live, calls = MemoryLog(), LiveRouter(), []
    topic = log.topic("orders")

    async def count() -> list[dict]:
        calls.append(1)
        return [{"id": "orders", "count": len((await topic.page(100)).changes)}]

    poll = Poll(count, interval=600.0, key="id", wake=[topic])

    @live.feed("/counts", item=dict, event="count", keyed=True)
    async def counts() -> Source:
        return poll()

    app = FastAPI()
    app.include_router(live)
    async with serving(app) as port:
        async with request(port, "/counts/stream") as answer:
            await answer.next()
            await log.append("orders", [{"n": n} for n in range(3)])
            assert told(await answer.next()) == ("count", {"id": "orders", "count": 3})
        # Nobody follows any more, so nobody needs the other source either.
        await until(lambda: all(r.origin is not topic.origin or r.unused for r in live.hub.readers))
        called = len(calls)
        await log.append("orders", {"n": 4})
        assert len(calls) == called


@pytest.mark.parametrize("limit", ["all", 100])
async def test_a_state_of_several_pages_is_shown_whole(limit):
    state = [{"id": n, "v": 0} for n in range(250)]
    live = LiveRouter()

    async def many() -> list[dict]:
        return [dict(each) for each in state]

    poll = Poll(many, interval=600.0, key="id")

    @live.feed("/many", item=dict, event="each", keyed=True, limit=limit)
    async def feed() -> Source:
        return poll()

    app = FastAPI()
    app.include_router(live)
    async with serving(app) as port:
        if limit == 100:
            pages, before = [], ""
            while True:
                async with request(port, "/many" + before) as answer:
                    page = json.loads(await answer.body())
                pages = [*page["items"], *pages]
                before = f"?before={page['start']}"
                if not page["has_more"]:
                    break
            assert [item["id"] for item in pages] == list(range(250))
            return
        held = {}
        async with request(port, "/many/stream") as answer:
            snapshot = json.loads((await answer.next()).data)
            assert snapshot["has_more"]
            held |= {item["id"]: item["v"] for item in snapshot["items"]}
            for _ in range(20):
                message = await answer.next()
                held[json.loads(message.data)["id"]] = 0
        # It comes back in the middle, after a change of what it has and of what it lacks.
        state[5]["v"] = state[200]["v"] = 1
        del state[7]
        poll.refresh()
        headers = {"Last-Event-ID": message.last_event_id}
        async with request(port, "/many/stream", headers=headers) as answer:
            while held != {item["id"]: item["v"] for item in state}:
                message = await answer.next()
                item = json.loads(message.data)
                assert message.event in ("each", "each_removed")
                held.pop(item["id"], None)
                if message.event == "each":
                    held[item["id"]] = item["v"]


def test_what_cannot_wake_it_is_refused():
    async def fetch() -> list[dict]:
        return []

    with pytest.raises(DeclarationError, match="a table, a live query or a selection"):
        Poll(fetch, wake=["orders"])
