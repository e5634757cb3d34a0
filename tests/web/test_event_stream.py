"""The low level over real connections, with what other plugins get wrong, a test each."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging

import pytest
from fastapi import Depends, HTTPException, Response
from pydantic import BaseModel

from headwater.errors import DeclarationError, FramingError
from headwater.testing import LiveClient
from headwater.web.fastapi import SSE, Comment, Event, EventStream, LiveRouter
from support.application import Application
from support.http import request
from support.server import serving
from support.trickle import trickling
from support.until import until

STREAM = {"Accept": "text/event-stream"}


class Rig:
    """One application with one streaming route, ``/x``."""

    def __init__(self, handler=None, **options) -> None:
        self.live = LiveRouter(**options)
        self.app = Application(self.live)

    def route(self, handler, *, sse=True, path="/x", **options):
        self.live.get(path, sse=sse, **options)(handler)
        return self


async def test_a_handler_sends_and_the_stream_closes_after_it():
    async def handler(stream: EventStream):
        assert await stream.send({"hello": "wörld"})

    async with serving(Rig().route(handler).app) as port, request(port, "/x") as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        assert await answer.body() == 'data: {"hello":"wörld"}\n\n'.encode()


async def test_everything_that_can_be_sent():
    class Model(BaseModel):
        a: int

    @dataclasses.dataclass
    class Data:
        b: int

    async def numbers():
        for number in range(2):
            yield f"async {number}"

    async def handler(stream: EventStream):
        await stream.send("text\nlines")
        await stream.send(b"bytes")
        await stream.send(Model(a=1))
        await stream.send(Data(b=2))
        await stream.send(Event(id=0, event="e", data="", retry=0))
        await stream.send(Comment("note"))
        await stream.send([{"n": 1}, "two"])
        await stream.send(numbers())

    async with serving(Rig().route(handler).app) as port, request(port, "/x") as answer:
        messages = await answer.rest()
        assert [message.data for message in messages] == [
            "text\nlines",
            "bytes",
            '{"a":1}',
            '{"b":2}',
            "",
            '{"n":1}',
            "two",
            "async 0",
            "async 1",
        ]
        assert messages[4].last_event_id == "0"
        assert messages[4].event == "e"
        assert answer.retry == 0
        assert b": note\n" in answer.raw


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (None, 200),
        ("text/event-stream", 200),
        ("text/*", 200),
        ("*/*", 200),
        ("text/html, */*;q=0.1", 200),
        ("application/json", 406),
        ("text/event-stream;q=0", 406),
        ("text/event-stream;q=0, */*", 406),
        ("text/*;q=0, text/event-stream", 200),
    ],
)
async def test_only_streams_for_who_can_take_it(accept, status):
    """A plain curl, which sends */*, gets the stream and no 500."""

    async def handler(stream: EventStream):
        await stream.send("x")

    async with serving(Rig().route(handler).app) as port:
        headers = {} if accept is None else {"Accept": accept}
        async with request(port, "/x", headers=headers) as answer:
            assert answer.status == status
            if status == 406:
                assert answer.headers["content-type"] == "application/problem+json"


async def test_a_stream_without_a_rest_twin_names_none():
    async def handler(stream: EventStream): ...

    async with LiveClient(Rig().route(handler, path="/ticks/stream").app) as client:
        answer = await client.get("/ticks/stream", headers={"Accept": "application/json"})
        assert answer.status_code == 406
        assert "rest" not in answer.json()
        assert answer.json()["detail"].endswith("only: send Accept: text/event-stream.")


async def test_dual_answers_json_unless_a_stream_is_asked_for_by_name():
    async def handler(stream: EventStream | None):
        if stream is None:
            return {"as": "json"}
        await stream.send("as stream")

    app = Rig().route(handler, sse=SSE(kind="dual")).app
    async with serving(app) as port:
        for accept in ("*/*", "application/json", "text/*"):
            async with request(port, "/x", headers={"Accept": accept}) as answer:
                assert answer.headers["content-type"] == "application/json"
                assert answer.headers["vary"] == "Accept"
                assert await answer.body() == b'{"as":"json"}'
        async with request(port, "/x", headers=STREAM) as answer:
            assert answer.headers["vary"] == "Accept"
            assert await answer.body() == b"data: as stream\n\n"


async def test_manual_streams_or_answers_as_the_handler_decides():
    async def handler(stream: EventStream, live: bool = False):
        if not live:
            return {"answer": 42}
        await stream.send("4")
        await stream.send("2")

    rig = Rig()
    rig.live.post("/ask", sse=SSE(kind="manual"))(handler)
    async with serving(rig.app) as port:
        async with request(port, "/ask", method="POST") as answer:
            assert await answer.body() == b'{"answer":42}'
        async with request(port, "/ask?live=true", method="POST") as answer:
            assert [m.data for m in await answer.rest()] == ["4", "2"]


async def test_head_answers_the_headers_alone_and_does_not_run_the_handler():
    ran = []

    async def handler(stream: EventStream):
        ran.append(1)

    async with (
        serving(Rig().route(handler).app) as port,
        request(port, "/x", method="HEAD") as answer,
    ):
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert not ran


async def test_keep_alive_with_nothing_sent_opens_the_stream_and_it_stays_open():
    streams: list[EventStream] = []

    async def handler(stream: EventStream):
        stream.keep_alive()
        streams.append(stream)

    async with serving(Rig().route(handler).app) as port, request(port, "/x") as answer:
        assert answer.status == 200
        await answer.until(b":\n\n")
        assert streams[0].push("later")
        assert (await answer.next()).data == "later"
        streams[0].close()
        streams[0].close()
        assert await answer.rest() == []


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPException(404), 404), (HTTPException(401), 401), (KeyError(), 500)]
)
async def test_an_error_before_the_first_event_is_an_http_error(error, status, caplog):
    async def handler(stream: EventStream):
        raise error

    async with serving(Rig().route(handler).app) as port, request(port, "/x") as answer:
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("opened_by", ["send", "keep_alive"])
async def test_an_error_after_it_is_an_event_without_id_and_an_orderly_close(opened_by, caplog):
    """A throw after keep_alive leaves no zombie."""
    closed = []

    async def handler(stream: EventStream):
        stream.on_close(lambda: closed.append(1))
        if opened_by == "send":
            await stream.send(Event(id="7", data="fine"))
        else:
            stream.keep_alive()
        raise RuntimeError("broken inside")

    rig = Rig().route(handler)
    async with serving(rig.app) as port, request(port, "/x") as answer:
        *_, last = await answer.rest()
        assert last.event == "error"
        assert last.data == '{"status":500}'
        assert b"broken" not in answer.raw
        assert answer.raw.count(b"id:") == (1 if opened_by == "send" else 0)
        assert closed == [1]
        await until(lambda: rig.live.stats.open == 0)
    assert "broken inside" in caplog.text


async def test_cookies_and_headers_of_dependencies_reach_the_client():
    def dependency(response: Response):
        response.set_cookie("flavour", "oat")
        response.headers["X-One"] = "1"

    async def handler(stream: EventStream, response: Response):
        response.headers["X-Two"] = "2"
        await stream.send("x")

    app = Rig().route(handler, dependencies=[Depends(dependency)]).app
    async with serving(app) as port, request(port, "/x") as answer:
        assert answer.headers["set-cookie"].startswith("flavour=oat")
        assert answer.headers["x-one"] == "1"
        assert answer.headers["x-two"] == "2"


async def test_a_dependency_with_yield_is_closed_before_the_stream_waits():
    """A database session must not stay checked out for as long as the stream is open."""
    state = []

    async def session():
        state.append("open")
        yield "session"
        state.append("closed")

    async def handler(stream: EventStream, db=Depends(session)):
        assert state == ["open"]
        stream.keep_alive()

    async with serving(Rig().route(handler).app) as port, request(port, "/x") as answer:
        await answer.until(b":\n\n")
        await until(lambda: state == ["open", "closed"])
        assert not answer.ended


async def test_a_client_that_vanishes_makes_send_false_and_runs_callbacks_once(caplog):
    outcome = asyncio.get_running_loop().create_future()
    calls = []

    async def handler(stream: EventStream):
        stream.on_close(lambda: calls.append("sync"))

        async def later():
            calls.append("async")

        stream.on_close(later)
        number = 0
        while await stream.send(f"{number}"):
            number += 1
            await asyncio.sleep(0)
        stream.on_close(lambda: calls.append("late"))
        outcome.set_result((await stream.send("gone"), stream.push("gone"), stream.is_connected))

    rig = Rig().route(handler)
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            await answer.next()
            answer.leave()
        assert await asyncio.wait_for(outcome, 10) == (False, False, False)
        await until(lambda: len(calls) == 3)
        await until(lambda: rig.live.stats.open == 0)
    assert sorted(calls) == ["async", "late", "sync"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_client_that_leaves_during_the_handlers_query_is_no_error(caplog):
    querying, answered = asyncio.Event(), asyncio.Event()
    outcome = asyncio.get_running_loop().create_future()

    async def handler(stream: EventStream):
        await stream.send("first")
        querying.set()
        await answered.wait()
        outcome.set_result(await stream.send("second"))

    rig = Rig().route(handler)
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            await answer.next()
            await querying.wait()
            answer.leave()
        await until(lambda: rig.live.stats.open == 1)
        async with asyncio.timeout(10):
            while not outcome.done():
                await asyncio.sleep(0)
                if (
                    next(iter(rig.live.hub.streams), None) is None
                    or not next(iter(rig.live.hub.streams)).is_connected
                ):
                    answered.set()
        assert outcome.result() is False
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_send_to_a_client_that_stalls_and_leaves_returns_false():
    """It never hangs."""
    outcome = asyncio.get_running_loop().create_future()
    waiting = asyncio.Event()

    async def handler(stream: EventStream):
        block = "x" * 50_000
        while True:
            sent = stream.send(block)
            if stream.sender.pending > 200_000:
                waiting.set()
            if not await sent:
                break
        outcome.set_result(True)

    async with serving(Rig().route(handler).app) as port:
        async with request(port, "/x", receive_buffer=4096) as answer:
            await asyncio.wait([asyncio.ensure_future(waiting.wait())], timeout=0.5)
            answer.leave()
        assert await asyncio.wait_for(outcome, 10)


async def test_what_waits_for_one_stalled_client_is_bounded():
    """Un-awaited sends cannot queue 30 MB: the client is disconnected, and can resume."""
    opened, dropped = asyncio.Event(), asyncio.Event()
    highest = 0

    async def handler(stream: EventStream):
        nonlocal highest
        stream.on_close(dropped.set)
        stream.keep_alive()
        await opened.wait()
        block = "x" * 10_000
        for _ in range(3_000):
            stream.send(block)
            highest = max(highest, stream.sender.pending)
            if not stream.is_connected:
                break

    rig = Rig().route(handler)
    async with serving(rig.app) as port, request(port, "/x", receive_buffer=4096):
        opened.set()
        await asyncio.wait_for(dropped.wait(), 10)
        assert highest < 300_000
        assert rig.live.stats.overrun == 1


async def test_sends_nobody_awaits_arrive_and_cannot_crash_after_close():
    async def handler(stream: EventStream):
        stream.send("one")
        stream.send(["two", "three"])
        await asyncio.sleep(0)
        await stream.send("four")
        stream.close()
        stream.send("five")
        assert not stream.push("six")
        stream.send(["seven"])

    async with serving(Rig().route(handler).app) as port, request(port, "/x") as answer:
        data = [message.data for message in await answer.rest()]
        assert data == ["one", "two", "three", "four"]
    gc.collect()


async def test_a_stalled_peer_is_dropped_after_the_write_timeout():
    closed = asyncio.Event()

    async def handler(stream: EventStream):
        stream.on_close(closed.set)
        while await stream.send("x" * 60_000):
            pass

    rig = Rig(write_timeout=0.3).route(handler)
    async with serving(rig.app) as port, request(port, "/x", receive_buffer=4096):
        await asyncio.wait_for(closed.wait(), 10)
        assert rig.live.stats.stalled == 1
        await until(lambda: rig.live.stats.open == 0)


async def test_a_peer_on_a_slow_line_is_not_dropped():
    """It would get its snapshot never, however often it comes back."""

    async def handler(stream: EventStream):
        while await stream.send("x" * 60_000):
            pass

    rig = Rig(write_timeout=0.9).route(handler)
    async with serving(rig.app) as port:
        async with trickling(port, b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n") as taken:
            await until(lambda: taken() > 45_000)
        assert rig.live.stats.stalled == 0


@pytest.mark.parametrize(
    "values",
    [{"id": "a\nb"}, {"id": "a\rb"}, {"id": "a\0b"}, {"event": "a\nb"}, {"id": "\ud800"}],
)
async def test_lines_cannot_be_injected(values):
    with pytest.raises(FramingError, match="id|event"):
        Event(data="x", **values)


async def test_replay_runs_only_for_a_returning_client_and_leaves_no_gap():
    """Pushes during replay are held, and sent after it without what was replayed."""
    ran = []

    async def handler(stream: EventStream):
        pushed = asyncio.Event()

        async def missed_since(last):
            ran.append(last)
            yield Event(id="2", data="two")
            stream.push(Event(id="3", data="three"))
            stream.push(Event(id="4", data="four"))
            pushed.set()
            yield Event(id="3", data="three")

        await stream.replay(missed_since)
        await stream.send("end")

    async with serving(Rig().route(handler).app) as port:
        async with request(port, "/x") as answer:
            assert [m.data for m in await answer.rest()] == ["end"]
        assert ran == []
        async with request(port, "/x", headers={"Last-Event-ID": "1"}) as answer:
            assert [m.data for m in await answer.rest()] == ["two", "three", "four", "end"]
        assert ran == ["1"]


async def test_last_event_id_is_utf_8_and_may_come_in_the_query():
    async def handler(stream: EventStream):
        await stream.send(Event(data={"id": stream.last_event_id}))

    async with serving(Rig().route(handler).app) as port:
        for path, headers, seen in (
            ("/x", {"Last-Event-ID": "größe".encode()}, '{"id":"größe"}'),
            ("/x?lastEventId=7", {}, '{"id":"7"}'),
            ("/x?lastEventId=7", {"Last-Event-ID": "8"}, '{"id":"8"}'),
            ("/x", {"Last-Event-ID": ""}, '{"id":null}'),
            ("/x", {}, '{"id":null}'),
        ):
            async with request(port, path, headers=headers) as answer:
                assert (await answer.next()).data == seen


async def test_heartbeats_come_as_events_to_a_client_that_asks_for_them():
    """So a page notices a dead line on every stream, not only on a feed's."""

    async def handler(stream: EventStream):
        await stream.send("hello")
        stream.keep_alive()

    rig = Rig(heartbeat=None)
    rig.route(handler, sse=SSE(heartbeat=0.05))
    event = b'event: heartbeat\ndata: {"event":null,"interval":0.05}\n\n'
    async with serving(rig.app) as port:
        async with request(port, "/x?heartbeat=event") as answer:
            await answer.until(event + event)
            assert answer.raw.startswith(event + b"data: hello\n\n")
            assert b": heartbeat\n\n" not in answer.raw.replace(b"event: heartbeat", b"")
        async with request(port, "/x?heartbeat=other") as answer:
            await answer.until(b": heartbeat\n\n")
            assert b"event: heartbeat" not in answer.raw


async def test_heartbeats_only_when_silent():
    streams = []

    async def handler(stream: EventStream):
        stream.keep_alive()
        streams.append(stream)

    rig = Rig(heartbeat=None)
    rig.route(handler, sse=SSE(heartbeat=0.05))
    rig.route(handler, path="/busy", sse=SSE(heartbeat=0.6))
    rig.route(handler, path="/never")
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            await answer.until(b": heartbeat\n\n: heartbeat\n\n")
        async with request(port, "/busy") as answer:
            # A busy stream gets none: each write puts the next heartbeat off.
            await answer.until(b":\n\n")
            loop = asyncio.get_running_loop()
            end = loop.time() + 0.8
            while loop.time() < end:
                streams[-1].push("busy")
                await answer.next()
            assert b"heartbeat" not in answer.raw
        async with request(port, "/never") as answer:
            await answer.until(b":\n\n")
            streams[-1].push("x")
            await answer.next()
            assert b"heartbeat" not in answer.raw


async def test_a_handler_that_ignores_its_client_has_gone_is_ended(caplog):
    started, over = asyncio.Event(), asyncio.Event()

    async def handler(stream: EventStream):
        try:
            await stream.send("x")
            started.set()
            await asyncio.Event().wait()
        finally:
            over.set()

    rig = Rig().route(handler, sse=SSE(linger=0.05))
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            await answer.next()
            await started.wait()
        await asyncio.wait_for(over.wait(), 10)
        await until(lambda: rig.live.stats.open == 0)


async def test_a_shut_down_does_not_wait_for_open_streams():
    async def handler(stream: EventStream):
        stream.keep_alive()

    rig = Rig().route(handler)
    loop = asyncio.get_running_loop()
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            await answer.until(b":\n\n")
            await rig.live.drain(spread=0.1)
            assert 500 <= (answer.retry or 0) <= 5000 or await answer.rest() == []
            assert 500 <= (answer.retry or 0) <= 5000
            async with request(port, "/x") as refused:
                # Any other status would end a browser's EventSource for good.
                assert refused.status == 200
                assert refused.headers["retry-after"]
                assert await refused.rest() == []
                assert refused.retry and b": the server is shutting down" in refused.raw
        began = loop.time()
    assert loop.time() - began < 5


async def test_push_from_another_thread():
    async def handler(stream: EventStream):
        stream.keep_alive()
        await asyncio.to_thread(stream.push, "from a thread")

    async with serving(Rig().route(handler).app) as port, request(port, "/x") as answer:
        assert (await answer.next()).data == "from a thread"


def test_what_cannot_work_is_refused_where_it_is_declared():
    live = LiveRouter()

    with pytest.raises(DeclarationError, match="async def"):

        @live.get("/a", sse=True)
        def sync(stream: EventStream): ...

    with pytest.raises(DeclarationError, match="stream: EventStream"):

        @live.get("/b", sse=True)
        async def without(): ...

    with pytest.raises(DeclarationError, match="kind='both'"):
        SSE(kind="both")
    with pytest.raises(DeclarationError, match="heartbeat=0"):
        SSE(heartbeat=0)
    with pytest.raises(DeclarationError, match="recheck=31"):
        LiveRouter(recheck=31)
