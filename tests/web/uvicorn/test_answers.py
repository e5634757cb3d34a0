"""Answers that a client does not take, and requests that it sends ahead of them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest

from support.http import request
from support.trickle import trickling
from support.until import until
from support.uvicorn_rig import App, rigged

MEGABYTE = 1024 * 1024


async def test_a_request_that_was_sent_ahead_waits_for_the_answer_before_it():
    async with rigged() as rig, rig.client() as client, rig.client() as other:
        client.get("/wait")
        for number in range(100):
            client.get(f"/{number}")
        other.get("/other")
        await other.answer()
        assert "/0" not in rig.app.began
        rig.app.go_on.set()
        assert (await client.answer())[2] == b"/wait"
        for number in range(100):
            assert (await client.answer())[2] == b"/%d" % number


async def test_a_client_that_sends_ahead_without_end_is_read_no_further():
    """What is read ahead has a bound, so the client's own socket fills up."""
    async with rigged() as rig, rig.client() as client:
        client.get("/wait")
        await until(lambda: rig.app.began)
        client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 1_000_000)
        sizes: list[int] = []

        async def rests():
            sizes.append(client.writer.transport.get_write_buffer_size())
            await asyncio.sleep(0.05)  # three equal sizes in a row mean rest
            return sizes[-3:] == [sizes[-1]] * 3

        await until(rests)
        assert sizes[-1] > 10 * MEGABYTE
        rig.app.go_on.set()
        for _ in range(1000):
            assert (await client.answer())[0] == 200


async def test_a_client_that_sent_a_little_ahead_is_seen_to_leave():
    app = App()
    gone = asyncio.Event()

    async def waiting(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/poll":
            await receive()
            assert (await receive())["type"] == "http.disconnect"
            gone.set()
        else:
            await app(scope, receive, send)

    async with rigged(waiting) as rig:
        async with rig.client() as client, rig.client() as other:
            client.get("/poll")
            client.get("/x")
            other.get("/y")
            await other.answer()
        await asyncio.wait_for(gone.wait(), 5)


async def test_the_next_request_waits_until_the_answer_is_taken():
    """Ten pages that nobody reads are one page, and what the kernels of both ends take."""
    app = App()
    app.page = b"x" * (256 * 1024)
    async with rigged(app) as rig, rig.client() as client:
        client.writer.transport.pause_reading()
        for _ in range(10):
            client.get("/page")
        await until(lambda: app.began)

        async def rests():
            before = len(app.began)
            await asyncio.sleep(0.1)  # a request that is taken begins within that time
            return len(app.began) == before

        await until(rests)
        assert len(app.began) < 4
        client.writer.transport.resume_reading()
        for _ in range(10):
            assert (await client.answer())[2] == app.page


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
async def test_short_answers_that_nobody_takes_are_few(at_once: bool):
    """A page is longer than what the kernels of both ends take, so there is no second one."""
    app = App()
    app.page = b"x" * (20 * 1024)
    async with rigged(app) as rig, rig.client(buffer=4096) as client:
        client.writer.transport.pause_reading()
        for _ in range(10):
            client.get("/page")
            if not at_once:
                await asyncio.sleep(0.01)  # so that the server reads one request at a time
        await until(lambda: app.began)

        async def rests():
            before = len(app.began)
            await asyncio.sleep(0.1)  # a request that is taken begins within that time
            return len(app.began) == before

        await until(rests)
        assert len(app.began) == 1
        client.writer.transport.resume_reading()
        for _ in range(10):
            assert (await client.answer())[2] == app.page


async def test_a_client_that_takes_nothing_of_its_answer_is_dropped():
    app = App()
    app.page = b"x" * (32 * MEGABYTE)
    async with rigged(app, limits={"unread_seconds": 0.3}) as rig, rig.client() as client:
        client.writer.transport.pause_reading()
        client.get("/page")
        await until(lambda: rig.refused("unread"))
        client.writer.transport.resume_reading()
        assert len(await client.ended()) < len(app.page)
        await until(lambda: rig.counters.open == 0)


async def test_a_client_that_takes_a_little_now_and_then_is_not_dropped():
    app = App()
    app.page = b"x" * (32 * MEGABYTE)
    async with rigged(app, limits={"unread_seconds": 0.5}) as rig, rig.client() as client:
        client.get("/page")
        taken = 0
        for _ in range(8):
            taken += len(await client.reader.read(2 * MEGABYTE))
            await asyncio.sleep(0.1)  # the pace of a slow reader
        while taken < len(app.page):
            taken += len(await client.reader.read(2 * MEGABYTE))
        assert rig.refused("unread") == 0


async def test_a_client_on_a_slow_line_is_not_dropped():
    """It takes less in that time than the kernel's buffer, by which a transport sees it read."""
    app = App()
    app.page = b"x" * MEGABYTE
    async with rigged(app, limits={"unread_seconds": 0.5}) as rig:
        async with trickling(rig.port, b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n") as taken:
            await until(lambda: taken() > 40_000)
        assert rig.refused("unread") == 0


@pytest.mark.parametrize("lines", [(), ("Connection: close",)], ids=["kept", "closed"])
async def test_an_answer_on_a_slow_line_outlives_the_time_of_an_idle_connection(lines):
    """What the kernel does not take waits in the transport, and the connection is not idle."""
    app = App()
    app.page = b"x" * (48 * 1024)
    head = "\r\n".join(("GET /page HTTP/1.1", "Host: x", *lines, "", ""))
    async with rigged(app, timeout_keep_alive=0.3) as rig:
        async with trickling(rig.port, head.encode()) as taken:
            await until(lambda: taken() > len(app.page))


async def test_answers_that_nobody_takes_are_bounded_in_all(caplog):
    caplog.set_level(logging.WARNING, "headwater.web")
    app = App()
    app.page = b"x" * (32 * MEGABYTE)
    async with rigged(app, limits={"unread_bytes": 70 * MEGABYTE}) as rig:
        async with rig.client() as first, rig.client() as second, rig.client() as third:
            for number, client in enumerate((first, second, third)):
                client.writer.transport.pause_reading()
                client.get("/page")
                await until(lambda number=number: len(app.began) == number + 1)
            # The one whose client took nothing for the longest time.
            await until(lambda: rig.refused("unread") == 1)
            for client in (first, second, third):
                client.writer.transport.resume_reading()
            assert len(await first.ended()) < len(app.page)
            for client in (second, third):
                assert (await client.answer())[2] == app.page
    assert "1 whose client did not read its answer" in caplog.text


async def test_an_answer_that_fails_leaves_no_second_one():
    """What is no request behind a good one is answered after it, not in its middle."""
    async with rigged() as rig, rig.client() as client:
        client.get("/wait")
        client.send(b"\x00 what is this\r\n\r\n")
        await until(lambda: rig.app.began)
        rig.app.go_on.set()
        assert (await client.answer())[2] == b"/wait"
        assert (await client.answer())[0] == 400
        assert await client.ended() == b""


async def test_a_fault_of_the_application_is_500(caplog):
    async def broken(scope, receive, send):
        if scope["type"] == "http":
            raise LookupError("nothing here")

    async with rigged(broken) as rig, rig.client() as client:
        client.get("/")
        status, headers, body = await client.answer()
        assert (status, headers["connection"], body) == (500, "close", b"Internal Server Error")
        assert await client.ended() == b""
    assert "nothing here" in caplog.text


async def test_a_head_request_has_no_body():
    async with rigged() as rig, rig.client() as client:
        client.send(b"HEAD /four HTTP/1.1\r\nhost: x\r\n\r\n")
        client.get("/next")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"content-length: 5\r\n" in head
        assert (await client.answer())[2] == b"/next"


async def test_a_server_that_ends_lets_an_answer_finish():
    async with rigged() as rig:
        async with rig.client() as client, rig.client() as idle:
            client.get("/wait")
            await until(lambda: rig.app.began)
            rig.stop()
            assert await idle.ended() == b""
            rig.app.go_on.set()
            assert (await client.answer())[2] == b"/wait"
            assert await client.ended() == b""


async def test_a_client_of_http_1_0_is_sent_no_chunks():
    """nginx speaks it to the server behind it unless it is told otherwise."""

    async def streaming(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"data: 1\n\n", b"data: 2\n\n"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with rigged(streaming) as rig, rig.client() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        async with asyncio.timeout(10):
            head, _, body = (await client.reader.read(-1)).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        assert body == b"data: 1\n\ndata: 2\n\n"


async def test_headers_may_be_lists():
    """ASGI allows any iterable of two byte strings."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            headers = [[b"X-It", b"me"], [b"content-length", b"2"]]
            await send({"type": "http.response.start", "status": 200, "headers": iter(headers)})
            await send({"type": "http.response.body", "body": b"ok"})

    async with rigged(app) as rig, rig.client() as client:
        client.get("/")
        status, headers, body = await client.answer()
        assert (status, headers["x-it"], body) == (200, "me", b"ok")


@pytest.mark.parametrize("by", ["user", "address"])
async def test_only_the_greediest_loses_answers(by: str):
    """Whoever leaves many answers unread takes no room from others, however slow these are."""
    app = App()
    app.page = b"x" * (8 * MEGABYTE)
    # One answer of each would fit.
    limits = {"unread_bytes": 26 * MEGABYTE}
    async with rigged(app, limits=limits) as rig, AsyncExitStack() as stack:
        clients = []
        # The slowest is somebody else's.
        for number, who in enumerate("23334", 1):
            host = f"127.0.0.{who}" if by == "address" else "127.0.0.1"
            client = await stack.enter_async_context(rig.client(host))
            client.writer.transport.pause_reading()
            client.get("/page", *([f"X-User: {who}"] if by == "user" else []))
            await until(lambda number=number: len(app.began) == number)
            clients.append(client)
        await until(lambda: rig.refused("unread"))
        for client in clients:
            client.writer.transport.resume_reading()
        assert len(await clients[1].ended()) < len(app.page)
        assert (await clients[0].answer())[2] == app.page


async def test_short_answers_that_nobody_takes_are_bounded_in_all():
    """The transport takes them at once, so nothing waits for their clients."""
    app = App()
    app.page = b"x" * 60_000
    limits = {"unread_bytes": 150_000, "head_seconds": 0.4}
    async with rigged(app, limits=limits, send_buffer=4096) as rig, AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(request(rig.port, "/page", receive_buffer=4096))
        await until(lambda: rig.refused("unread"))
