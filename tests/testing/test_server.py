"""A server in the test's own event loop."""

import signal

import httpx
import pytest

from headwater.testing import running


async def test_an_application_is_served_while_the_block_runs(world):
    async with running(world.app) as address:
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await client.get("/state")).json() == {"word": "hello"}
            async with client.stream("GET", "/api/never"):
                pass
    assert world.events[0] == "started"
    assert world.events[-1] == "ended"


async def test_ctrl_c_is_for_the_tests(world):
    before = signal.getsignal(signal.SIGINT)
    async with running(world.app):
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


async def test_an_application_that_does_not_start_is_an_error(world):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(AssertionError, match="did not start"):
        async with running(app, log_level="critical"):
            pass


async def test_a_stream_that_is_open_at_the_end_does_not_keep_the_server(world):
    async with running(world.app, timeout_graceful_shutdown=1) as address:
        client = httpx.AsyncClient(base_url=address)
        request = client.build_request("GET", "/api/never")
        response = await client.send(request, stream=True)
    await response.aclose()
    await client.aclose()
    assert world.events[-1] == "ended"
