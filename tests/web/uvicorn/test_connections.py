"""How many connections there may be: those that only hold a place make room for others."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import pytest

from headwater.errors import DeclarationError
from headwater.web.uvicorn import Limits
from support.until import until
from support.uvicorn_rig import few_descriptors, rigged


async def test_silent_connections_make_room_for_one_that_asks(caplog):
    caplog.set_level(logging.WARNING, "headwater.web")
    async with rigged(limits={"connections": 20}) as rig, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(rig.client()) for _ in range(20)]
        await until(lambda: rig.counters.open == 20)
        client = await stack.enter_async_context(rig.client())
        client.get("/x")
        assert (await client.answer())[2] == b"/x"
        assert await silent[0].ended() == b""
        assert rig.refused("made_room") == 1
        silent[1].get("/y")
        assert (await silent[1].answer())[2] == b"/y"
    assert "1 closed to make room" in caplog.text


async def test_connections_with_a_request_keep_their_place():
    async with rigged(limits={"connections": 5}) as rig, AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(rig.client()) for _ in range(5)]
        for client in busy:
            client.get("/wait")
        await until(lambda: len(rig.app.began) == 5)
        for path, status in (("/x", 503), ("/healthz", 200), ("/metrics", 200)):
            client = await stack.enter_async_context(rig.client())
            client.get(path)
            found, headers, _ = await client.answer()
            assert (found, headers["connection"]) == (status, "close")
            if status == 503:
                assert int(headers["retry-after"]) in range(2, 9)
        client = await stack.enter_async_context(rig.client())
        client.get("/x/stream", "Accept: text/event-stream")
        # Any other status would end a browser's EventSource for good.
        status, headers, body = await client.answer()
        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert body.startswith(b"retry: ")
        rig.app.go_on.set()
        for each in busy:
            assert (await each.answer())[2] == b"/wait"
        client = await stack.enter_async_context(rig.client())
        client.get("/x")
        assert (await client.answer())[0] == 200


async def test_many_silent_ones_above_the_limit_do_not_hide_the_health():
    async with rigged(limits={"connections": 1}) as rig, AsyncExitStack() as stack:
        busy = await stack.enter_async_context(rig.client())
        busy.get("/wait")
        await until(lambda: rig.app.began)
        for _ in range(100):
            await stack.enter_async_context(rig.client())
        await until(lambda: rig.refused("all") == 100)
        client = await stack.enter_async_context(rig.client())
        client.get("/healthz")
        assert (await client.answer())[0] == 200
        assert rig.counters.open < 40
        rig.app.go_on.set()


async def test_slow_bodies_above_the_limit_do_not_hide_the_health():
    limits = {"connections": 2, "always": ("/read", "/healthz")}
    async with rigged(limits=limits) as rig, AsyncExitStack() as stack:
        for number in range(40):
            client = await stack.enter_async_context(rig.client())
            client.send(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            await until(lambda number=number: len(rig.app.began) == number + 1)
        client = await stack.enter_async_context(rig.client())
        client.get("/healthz")
        assert (await client.answer())[0] == 200


async def test_one_address_has_so_many_connections():
    async with (
        rigged(limits={"connections_per_address": 3}) as rig,
        AsyncExitStack() as stack,
    ):
        for _ in range(3):
            client = await stack.enter_async_context(rig.client("127.0.0.2"))
            client.get("/x")
            assert (await client.answer())[0] == 200
        async with rig.client("127.0.0.2") as fourth:
            fourth.get("/x")
            assert (await fourth.answer())[0] == 429
        other = await stack.enter_async_context(rig.client("127.0.0.3"))
        other.get("/x")
        assert (await other.answer())[0] == 200
        assert rig.refused("address") == 1
        # One that is closed leaves its place to the next.
        client.writer.close()
        await until(lambda: rig.counters.open == 3)
        async with rig.client("127.0.0.2") as again:
            again.get("/x")
            assert (await again.answer())[0] == 200


async def test_no_address_has_more_than_half_of_all_connections():
    """With few file descriptors the usual limit of one address would be all there are."""
    async with rigged(limits={"connections": 8}) as rig, AsyncExitStack() as stack:
        for host, number, status in (("127.0.0.2", 4, 200), ("127.0.0.2", 1, 429),
                                     ("127.0.0.3", 3, 200)):  # fmt: skip
            for _ in range(number):
                client = await stack.enter_async_context(rig.client(host))
                client.get("/x")
                assert (await client.answer())[0] == status


async def test_a_trusted_proxy_speaks_for_many_clients():
    limits = {"connections_per_address": 2}
    async with (
        rigged(limits=limits, forwarded_allow_ips="127.0.0.4/30") as rig,
        AsyncExitStack() as stack,
    ):
        for host, last in (("127.0.0.5", 200), ("127.0.0.1", 429)):
            for number in range(4):
                client = await stack.enter_async_context(rig.client(host))
                client.get("/x")
                assert (await client.answer())[0] == (200 if number < 2 else last)


async def test_file_descriptors_are_left_for_others():
    """With 40 descriptors free, and 30 of them kept: the database, files and health go on."""
    async with rigged() as rig:
        pass
    with few_descriptors(40):
        async with rigged(limits={"reserve": 30}) as rig, AsyncExitStack() as stack:
            connections = []
            for _ in range(12):
                client = await stack.enter_async_context(rig.client())
                client.get("/wait")
                connections.append(client)
            # Both ends are descriptors of this process here.
            await until(lambda: rig.refused("all") > 0)
            client = await stack.enter_async_context(rig.client())
            client.get("/healthz")
            assert (await client.answer())[0] == 200
            rig.app.go_on.set()
            assert (await connections[0].answer())[0] == 200


@pytest.mark.parametrize(
    "wrong", [{"head_bytes": 0}, {"connections": -1}, {"reserve": -1}, {"body_seconds": 0.0}]
)
def test_a_limit_that_cannot_be(wrong):
    (name,) = wrong
    with pytest.raises(DeclarationError, match=rf"Limits\({name}=.*write"):
        Limits(**wrong)
