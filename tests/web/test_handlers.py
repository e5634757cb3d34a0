"""What happens around a streaming handler: its end, its dependencies, its client's leaving."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import BackgroundTasks, Depends, HTTPException, Request
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware

from headwater.delivery._direct_sender import DirectSender
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import (
    SSE,
    Event,
    EventStream,
    LiveRouter,
    Problem,
    Run,
    Runs,
    Source,
    guard,
    identify,
)
from support.application import Application
from support.http import request
from support.server import serving
from support.until import until


class Item(BaseModel):
    n: int


class Rig:
    """One application with one streaming route, ``/x``."""

    def __init__(self, handler, *, sse=True, middleware=None, heartbeat=30.0, **options) -> None:
        self.live = LiveRouter(heartbeat=heartbeat)
        self.app = Application(self.live)
        if middleware is not None:
            self.app.add_middleware(middleware)
        self.live.api_route("/x", methods=["GET", "POST"], sse=sse, **options)(handler)

    async def all_closed(self) -> None:
        await until(lambda: self.live.stats.open == 0)


async def fetch(port, **options):
    async with request(port, "/x", **options) as answer:
        return answer.status, await answer.body()


async def test_a_fault_while_a_dependency_is_released_ends_the_stream(caplog):
    async def session():
        yield
        raise RuntimeError("broken when released")

    async def handler(stream: EventStream, db=Depends(session)):
        stream.keep_alive()

    rig = Rig(handler)
    async with serving(rig.app) as port, request(port, "/x") as answer:
        (last,) = await answer.rest()
        assert (last.event, last.data) == ("error", '{"status":500}')
        await rig.all_closed()
    assert "broken when released" in caplog.text


async def test_a_dependency_sees_that_the_handler_failed(caplog):
    """Else it would commit half of a transaction."""
    outcome = []

    async def session():
        try:
            yield
        except RuntimeError:
            outcome.append("rolled back")
            raise
        outcome.append("committed")

    async def handler(stream: EventStream, db=Depends(session)):
        await stream.send("x")
        raise RuntimeError("broken inside")

    async with serving(Rig(handler).app) as port, request(port, "/x") as answer:
        assert (await answer.rest())[-1].event == "error"
        assert outcome == ["rolled back"]


async def test_a_body_may_be_read_after_the_first_event():
    seen = asyncio.Event()

    async def handler(stream: EventStream, request: Request):
        await stream.send("thinking")
        await seen.wait()
        await stream.send(await request.json())

    rig = Rig(handler, sse=SSE(kind="manual"))
    async with (
        serving(rig.app) as port,
        request(port, "/x", method="POST", body=b'{"a":1}') as answer,
    ):
        assert (await answer.next()).data == "thinking"
        seen.set()
        assert [message.data for message in await answer.rest()] == ['{"a":1}']


async def test_a_large_body_may_be_read_before_the_first_event_however_late():
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handler(stream: EventStream, request: Request):
        started.set()
        await go_on.wait()
        await stream.send(str(len(await request.body())))

    rig = Rig(handler)
    async with serving(rig.app) as port:
        waiting = asyncio.create_task(fetch(port, method="POST", body=b"x" * 2_000_000))
        await started.wait()
        go_on.set()
        assert await asyncio.wait_for(waiting, 10) == (200, b"data: 2000000\n\n")


async def test_a_client_that_sent_a_large_body_nobody_reads_is_noticed_when_it_leaves():
    async def handler(stream: EventStream):
        while await stream.send("x"):
            await asyncio.sleep(0)

    rig = Rig(handler)
    async with serving(rig.app) as port:
        async with request(port, "/x", method="POST", body=b"x" * 2_000_000) as answer:
            await answer.next()
            answer.leave()
        await rig.all_closed()


async def test_a_client_that_leaves_before_the_first_event_is_noticed():
    started, closed, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(stream: EventStream):
        stream.on_close(closed.set)
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            over.set()

    rig = Rig(handler, sse=SSE(linger=0.05))
    async with serving(rig.app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
        writer.transport.abort()
        await asyncio.wait_for(closed.wait(), 10)
        await asyncio.wait_for(over.wait(), 10)


async def test_a_handler_whose_stream_the_server_ended_is_ended_too():
    over = asyncio.Event()

    async def handler(stream: EventStream):
        try:
            await stream.send("x")
            await asyncio.Event().wait()
        finally:
            over.set()

    rig = Rig(handler, sse=SSE(linger=0.05))
    async with serving(rig.app) as port, request(port, "/x") as answer:
        await answer.next()
        await rig.live.drain(spread=0.1)
        await asyncio.wait_for(over.wait(), 10)


async def test_a_client_of_another_protocol_is_told_in_it_that_the_server_ends_the_stream():
    """To many clients of language models the end of the body is the end of the answer."""

    async def handler(stream: EventStream):
        await stream.send("half")
        stream.keep_alive()

    rig = Rig(handler, sse=SSE(kind="manual", farewell=Event(data={"type": "error"})))
    async with serving(rig.app) as port, request(port, "/x") as answer:
        await answer.next()
        await rig.live.drain(spread=0.1)
        assert [event.data for event in await answer.rest()] == ['{"type":"error"}']
        assert answer.retry is None
        async with request(port, "/x") as refused:
            assert refused.status == 503
            assert refused.headers["retry-after"]
            assert refused.headers["content-type"] == "application/problem+json"


async def test_a_handler_that_fails_after_its_stream_began_says_so_in_the_clients_protocol():
    async def handler(stream: EventStream):
        await stream.send("half")
        raise HTTPException(418)

    rig = Rig(handler, sse=SSE(farewell=Event(data="[FAILED]")))
    async with serving(rig.app) as port, request(port, "/x") as answer:
        assert [event.data for event in await answer.rest()] == ["half", "[FAILED]"]


async def test_a_handler_that_closes_its_stream_itself_may_go_on():
    go_on, outcome = asyncio.Event(), []

    async def handler(stream: EventStream):
        await stream.send("x")
        stream.close()
        await go_on.wait()
        outcome.append("done")

    rig = Rig(handler, sse=SSE(linger=0.001))
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            assert len(await answer.rest()) == 1
            await asyncio.sleep(0.02)  # nothing may happen in twenty times the linger
        go_on.set()
        await until(lambda: outcome == ["done"])


async def test_a_handler_that_closes_with_nothing_sent_gives_an_empty_stream():
    async def handler(stream: EventStream):
        stream.close()

    async with serving(Rig(handler).app) as port, request(port, "/x") as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert await answer.body() == b""


async def test_a_right_lost_before_the_first_event_is_the_answers_status():
    status, started, go_on = [None], asyncio.Event(), asyncio.Event()

    def right(request: Request):
        identify(request, "user:1")
        if status[0]:
            raise Problem(status[0], "no")

    async def handler(stream: EventStream):
        started.set()
        await go_on.wait()
        assert not await stream.send("secret")

    rig = Rig(handler, dependencies=[guard(right)])
    async with serving(rig.app) as port:
        waiting = asyncio.create_task(fetch(port))
        await started.wait()
        status[0] = 403
        await rig.live.recheck("user:1")
        go_on.set()
        code, body = await asyncio.wait_for(waiting, 10)
        assert code == 403
        assert b"secret" not in body


async def test_a_cancelled_request_leaves_nothing_open():
    class Limit:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send):
            try:
                async with asyncio.timeout(0.2 if scope["type"] == "http" else None):
                    await self.app(scope, receive, send)
            except TimeoutError:
                pass

    async def handler(stream: EventStream):
        await stream.send("x")
        await asyncio.Event().wait()

    rig = Rig(handler, middleware=Limit)
    async with serving(rig.app) as port, request(port, "/x") as answer:
        await answer.next()
        await rig.all_closed()


async def test_background_tasks_run_after_the_handler():
    ran = asyncio.Event()

    async def task():
        ran.set()

    async def handler(stream: EventStream, tasks: BackgroundTasks):
        tasks.add_task(task)
        await stream.send("x")
        assert not ran.is_set()

    async with serving(Rig(handler).app) as port, request(port, "/x") as answer:
        await answer.rest()
        await asyncio.wait_for(ran.wait(), 10)


async def test_a_middleware_goes_on_after_a_stream_that_took_its_connection_over():
    outcome = []

    class Log:
        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send):
            await self.app(scope, receive, send)
            if scope["type"] == "http":
                await asyncio.sleep(0)
                outcome.append("logged")

    go_on = asyncio.Event()

    async def handler(stream: EventStream):
        stream.keep_alive()
        await go_on.wait()

    rig = Rig(handler, middleware=Log)
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            await answer.until(b":\n\n")
            go_on.set()
        await until(lambda: outcome == ["logged"])


@pytest.mark.parametrize("path", ["/x", "/notes?wait=60"])
async def test_a_client_that_leaves_before_its_answer_is_no_error_for_middleware(path):
    """`BaseHTTPMiddleware` fails where it gets no answer, and each such client would be a 500."""
    started, outcome = asyncio.Event(), []

    class Log(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            answer = await call_next(request)
            outcome.append(answer.status_code)
            return answer

    async def handler(stream: EventStream):
        started.set()
        await asyncio.Event().wait()

    rig = Rig(handler, sse=SSE(linger=0.05), middleware=Log)

    @rig.live.feed("/notes", item=Item)
    async def notes() -> Source:
        return MemoryLog().topic("notes")

    async with serving(rig.app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await until(lambda: started.is_set() or rig.live.stats.waiting == 1)
        writer.transport.abort()
        await until(lambda: outcome == [499])


async def test_a_stream_that_outlives_its_handler_ends_without_an_error(caplog):
    async def handler(stream: EventStream):
        stream.keep_alive()

    rig = Rig(handler)
    async with serving(rig.app) as port:
        async with request(port, "/x") as answer:
            await answer.until(b":\n\n")
        await rig.all_closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_client_that_pipelined_while_the_handler_ran_is_seen_to_leave(sender):
    if sender == "asgi":
        return
    streams, go_on = [], asyncio.Event()

    async def handler(stream: EventStream):
        stream.keep_alive()
        streams.append(stream)
        await go_on.wait()

    rig = Rig(handler, heartbeat=None)
    async with serving(rig.app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        one = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(one)
        await reader.readuntil(b":\n\n\r\n")
        writer.write(one)
        # What came on the first connection was read before this request was.
        async with request(port, "/nothing") as answer:
            assert answer.status == 404
        go_on.set()
        await until(lambda: isinstance(streams[0].sender, DirectSender))
        writer.close()
        await rig.all_closed()


async def test_background_tasks_run_once_and_after_the_stream_has_ended():
    """The server would have its connection taken over, and the request end, while it is open."""
    ran, log = [], MemoryLog()

    def later(tasks: BackgroundTasks, request: Request) -> None:
        tasks.add_task(ran.append, "page" if "x-page" in request.headers else "background")

    async def handler(stream: EventStream):
        await stream.send("first")
        stream.keep_alive()

    rig = Rig(handler, dependencies=[Depends(later)])

    @rig.live.feed("/notes", item=dict, dependencies=[Depends(later)])
    def notes() -> Source:
        return log.topic("notes")

    go = asyncio.Event()

    @rig.live.run("/works", Runs(log), owner=lambda: "ann", dependencies=[Depends(later)])
    async def works(run: Run) -> None:
        await run.delta("a")
        await go.wait()

    starts = {"method": "POST", "headers": {"Accept": "text/event-stream"}}
    async with serving(rig.app) as port:
        for path, options in (("/x", {}), ("/notes/stream", {}), ("/works", starts)):
            async with request(port, path, **options) as answer:
                await answer.next()
                stream = rig.live.streams()[0]
                # A request that was taken over would have ended long before this one.
                async with request(port, "/notes", headers={"X-Page": "1"}) as page:
                    await page.body()
                await until(lambda: "page" in ran)
                ran.remove("page")
                assert ran == []
                assert rig.live.close_stream(stream.id)
                await answer.rest()
            await rig.all_closed()
            await until(lambda: ran == ["background"])
            ran.clear()
        go.set()
