"""A client that reads endless streams and never hangs a test."""

import asyncio

import pytest

from headwater.testing import LiveClient, running
from support.until import until


@pytest.fixture(params=["in process", "over a socket"])
async def client(request, world):
    if request.param == "in process":
        async with LiveClient(world.app, patience=20) as found:
            yield found
    else:
        async with running(world.app) as address, LiveClient(address, patience=20) as found:
            yield found


READINGS = "/api/readings"


async def test_a_feed_is_followed_and_resumed(client, world):
    async with client.stream(f"{READINGS}/stream") as stream:
        assert stream.status == 200
        assert stream.headers["x-accel-buffering"] == "no"
        await stream.next("snapshot")
        assert stream.retry == 2000
        await world.read(1.0, 2.0)
        first, second = await stream.take(2)
        assert (first.json()["celsius"], second.json()["celsius"]) == (1.0, 2.0)
        position = stream.last_event_id
    await world.read(3.0, 4.0)
    async with client.stream(f"{READINGS}/stream", last_event_id=position) as stream:
        missed = await stream.until(lambda message: message.json()["celsius"] == 4.0)
        assert [message.json()["celsius"] for message in missed] == [3.0, 4.0]
        await stream.quiet(0.02)
    assert len((await client.get(READINGS)).json()["readings"]) == 4


async def test_the_lifespan_runs_and_its_state_reaches_requests(client, world):
    assert world.events == ["started"]
    assert (await client.get("/state")).json() == {"word": "hello"}


async def test_the_lifespan_ends_with_the_block(world):
    async with LiveClient(world.app):
        pass
    assert world.events == ["started", "ended"]


async def test_leaving_the_block_is_what_the_application_sees_as_a_client_that_left(client, world):
    async with client.stream("/api/never"):
        pass
    await until(lambda: "never left" in world.events)


async def test_what_does_not_come_is_an_error_that_says_what_did(world):
    async with LiveClient(world.app, patience=0.1) as client:
        async with client.stream(f"{READINGS}/stream") as stream:
            await stream.next("snapshot")
            with pytest.raises(
                AssertionError, match="a message did not come within 0.1 s.*snapshot"
            ):
                await stream.next()
            with pytest.raises(AssertionError, match="a comment did not come within"):
                await stream.comment()
            with pytest.raises(AssertionError, match="the end of the stream did not come"):
                await stream.end()
            await world.read(1.0)
            with pytest.raises(AssertionError, match="instead of 'snapshot' came"):
                await stream.next("snapshot")
            await world.read(2.0)
            with pytest.raises(AssertionError, match="nothing should have come"):
                await stream.quiet(5)
        with pytest.raises(AssertionError, match="/slow did not answer within 0.1 s"):
            await client.get("/slow")


async def test_a_stream_that_ends_is_read_to_its_end(client):
    async with client.stream("/api/fails") as stream:
        first = await stream.next()
        assert first.data == "first"
        [error] = await stream.end()
        assert error.event == "error"
        with pytest.raises(AssertionError, match="the stream ended before a message"):
            await stream.next()


async def test_what_is_no_stream_is_shown(client):
    with pytest.raises(AssertionError, match="/nothing/stream answered 404 application"):
        async with client.stream("/nothing/stream"):
            pass


async def test_what_an_application_raises_reaches_the_test():
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError("none")
        if scope["path"] == "/before":
            raise RuntimeError("before the head")
        if scope["path"] == "/silent":
            return
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        raise RuntimeError("in the middle")

    async with LiveClient(app) as client:
        with pytest.raises(RuntimeError, match="before the head"):
            await client.get("/before")
        with pytest.raises(AssertionError, match="without an answer"):
            await client.get("/silent")
        async with client.stream("/") as stream:
            assert (await stream.next()).data == "x"
            with pytest.raises(RuntimeError, match="in the middle"):
                await stream.next()


async def test_a_500_shows_the_test_what_was_raised(world):
    @world.app.get("/breaks")
    async def breaks():
        raise ValueError("in the route")

    async with LiveClient(world.app) as client:
        with pytest.raises(ValueError, match="in the route"):
            await client.get("/breaks")


async def test_an_application_that_does_not_notice_its_client_left_is_found(monkeypatch):
    import headwater.testing._transport as transport

    monkeypatch.setattr(transport, "LEAVES_WITHIN", 0.05)

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise RuntimeError
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await asyncio.Event().wait()

    async with LiveClient(app) as client:
        with pytest.raises(AssertionError, match="went on for 0.05 s after its client had left"):
            async with client.stream("/"):
                pass


async def test_an_application_cannot_run_far_ahead_of_its_reader():
    sent = 0

    async def app(scope, receive, send):
        nonlocal sent
        if scope["type"] == "lifespan":
            raise RuntimeError
        head = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            sent += 1

    async with LiveClient(app) as client:
        request = client.http.build_request("GET", "/")
        response = await client.http.send(request, stream=True)
        for _ in range(500):
            await asyncio.sleep(0)
        assert 0 < sent <= 100
        await response.aclose()


async def test_an_application_that_does_not_start_is_an_error():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(AssertionError, match="did not start: no database"):
        async with LiveClient(app):
            pass
