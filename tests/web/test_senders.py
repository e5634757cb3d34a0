"""Both senders give the same bytes, and the direct one keeps nothing of the request."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import weakref

import pytest
import starlette.middleware.gzip
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

from headwater.delivery._direct_sender import DirectSender
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import EventStream, LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving
from support.until import until


class Rig:
    def __init__(self, *middleware) -> None:
        self.log = MemoryLog()
        self.live = LiveRouter(heartbeat=0.2)
        self.app = Application(self.live, prefix="/api")
        for each in middleware:
            self.app.add_middleware(each)

        @self.live.feed("/things", item=dict, event="thing")
        async def things() -> Source:
            return self.log.topic("things")

        @self.live.get("/events", sse=True)
        async def events(stream: EventStream):
            stream.keep_alive()
            self.stream = stream

    async def add(self, *numbers) -> None:
        await self.log.append("things", [{"n": n, "at": "then"} for n in numbers])

    def direct(self) -> bool:
        return all(isinstance(stream.sender, DirectSender) for stream in self.live.hub.streams)


@pytest.fixture
def uncollected():
    """No cyclic collector."""
    gc.disable()
    yield
    gc.enable()


class PassThrough(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


async def chunks(port, rig):
    """A stream's body with its chunks' framing, byte for byte, for one course of events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /api/things/stream HTTP/1.1\r\nHost: x\r\n\r\n")
    raw = await reader.readuntil(b"\r\n\r\n")
    async with asyncio.timeout(10):
        raw += await reader.readuntil(b"has_more")
        raw += await reader.readuntil(b"\n\n\r\n")
        await until(lambda: rig.live.stats.open == 1)
        for numbers in ((1,), (2, 3, 4), ("größe", "\n\r\u2028")):
            await rig.add(*numbers)
            for _ in numbers:
                raw += await reader.readuntil(b"\n\n")
            raw += await reader.readuntil(b"\r\n")
        raw += await reader.readuntil(b": heartbeat\n\n\r\n")
        for stream in rig.live.hub.streams:
            stream.dismiss(700)
        raw += await reader.read()
    writer.close()
    return raw


async def test_the_bytes_are_the_same(sender):
    bodies = []
    ours = "headwater.web.uvicorn:Protocol"
    # Without a line in its access log it makes the head itself.
    for http, access_log in (("httptools", True), (ours, True), (ours, False)):
        rig = Rig()
        options = {"http": http, "access_log": access_log, "date_header": False}
        async with serving(rig.app, **options) as port:
            raw = await chunks(port, rig)
        # Epochs and the marks of events are made at random. What becomes of the connection is the
        # server's own.
        raw = raw.replace(b"connection: close\r\n", b"", 1)
        bodies.append(re.sub(rb'(id: |"start":"|"position":")[^"\r\n]+', rb"\1POSITION", raw))
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[0].endswith(b"retry: 700\n\n\r\n0\r\n\r\n")


async def test_a_stream_that_closes_its_connection_says_so_before():
    """A client or proxy that took it for one to use again would lose its next request."""
    rig = Rig()
    async with serving(rig.app, http="headwater.web.uvicorn:Protocol") as port:
        async with request(port, "/api/things/stream") as answer:
            assert answer.headers["connection"] == "close"
        async with request(port, "/api/things") as answer:
            assert "connection" not in answer.headers


@pytest.mark.parametrize("middleware", [(), (PassThrough,)])
@pytest.mark.parametrize("path", ["/api/things/stream", "/api/events"])
async def test_a_live_stream_takes_its_connection_over(sender, middleware, path):
    rig = Rig(*middleware)
    async with serving(rig.app) as port, request(port, path) as answer:
        await answer.read_some()
        if sender == "asgi":
            assert not rig.direct()
            return
        # A middleware passes bytes on in its own time: some more may go the long way first.
        await answer.until(b"heartbeat")
        await until(rig.direct)
        if path == "/api/events":
            rig.stream.push("later")
        else:
            await rig.add(1)
        await answer.until(b"later" if path == "/api/events" else b'"n":1')
        answer.leave()
        await until(lambda: rig.live.stats.open == 0)


async def test_a_middleware_that_rewrites_bodies_keeps_its_streams(sender):
    class Upper:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send):
            async def shout(message):
                if message["type"] == "http.response.body":
                    message = {
                        **message,
                        "body": message["body"].replace(b"event: ", b"event: my_"),
                    }
                await send(message)

            await self.app(scope, receive, shout)

    rig = Rig(Upper)
    async with serving(rig.app) as port, request(port, "/api/things/stream") as answer:
        await answer.next()
        for number in range(3):
            await rig.add(number)
            assert (await answer.next()).event == "my_thing"
        assert not rig.direct()


@pytest.mark.skipif(
    not hasattr(starlette.middleware.gzip, "DEFAULT_EXCLUDED_CONTENT_TYPES"),
    reason="Starlette before 0.46 compresses event streams too, and holds events back",
)
async def test_a_compressing_middleware_keeps_its_streams(sender):
    rig = Rig(GZipMiddleware)
    headers = {"Accept-Encoding": "gzip"}
    async with (
        serving(rig.app) as port,
        request(port, "/api/things/stream", headers=headers) as answer,
    ):
        # Starlette leaves event streams as they are; what matters is that the bytes are whole.
        assert (await answer.next()).event == "snapshot"
        await rig.add(1)
        assert json.loads((await answer.next()).data)["n"] == 1


async def test_nothing_of_the_request_is_kept(sender, uncollected):
    """Nor is it left to the cyclic collector, whose work would grow with each stream."""
    if sender == "asgi":
        return
    requests = []

    class Remember:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send):
            if scope["type"] == "http":
                requests.append(weakref.ref(receive.__self__))
            await self.app(scope, receive, send)

    rig = Rig(Remember)
    async with serving(rig.app) as port, request(port, "/api/things/stream") as answer:
        await answer.next()
        await until(rig.direct)
        tasks = {task.get_name() for task in asyncio.all_tasks()}
        for _ in range(5):
            await asyncio.sleep(0)
        assert [each() for each in requests] == [None]
        assert not any("run_asgi" in repr(task) for task in asyncio.all_tasks()), tasks
        await rig.add(1)
        assert json.loads((await answer.next()).data)["n"] == 1


async def test_a_client_that_pipelines_a_request_keeps_its_server(sender):
    """Its stream is whole, and ends when it leaves."""
    if sender == "asgi":
        return  # uvicorn tells only the last of pipelined requests that the client has gone
    rig = Rig()
    async with serving(rig.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        one = b"GET /api/things/stream HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(one + b"GET /api/things HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            await reader.readuntil(b"has_more")
            await rig.add(1)
            await reader.readuntil(b'"n":1')
        writer.transport.abort()
        await until(lambda: rig.live.stats.open == 0)
