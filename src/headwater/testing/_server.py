"""A real server in the test's own process and event loop."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from headwater.errors import MissingExtraError

# Seconds for a start, or an end: a lifespan may open databases.
_WITHIN = 30.0
_LOOK_AGAIN = 0.005


@asynccontextmanager
async def running(app: Any, **options: Any) -> AsyncIterator[str]:
    """Serve an ASGI application on a free port while the block runs; gives its address.

    ::

        async with running(app) as address, httpx.AsyncClient(base_url=address) as client:
            ...

    ``options`` are those of ``uvicorn.Config``, such as
    ``http="headwater.web.uvicorn:Protocol"``. The end of the block closes open streams. Raises
    AssertionError when the application does not start.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("backend", "uvicorn") from error
    settings = {"log_level": "warning", "loop": "none", "timeout_graceful_shutdown": 5, **options}
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    ours = _handlers()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        task = asyncio.create_task(_serve(server, listener))
        try:
            await _started(server, task)
            # Ctrl-C is for the tests, not for their server.
            _restore(ours)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait([task], timeout=_WITHIN)
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
                raise AssertionError(f"the server did not end within {_WITHIN:g} s")
            _restore(ours)


async def _serve(server: Any, listener: socket.socket) -> None:
    # When an application does not start, uvicorn exits; that would end the tests.
    with suppress(SystemExit):
        await server.serve(sockets=[listener])


async def _started(server: Any, task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(_WITHIN):
        while not server.started:
            if task.done():
                await task
                raise AssertionError("the application did not start; its log says why")
            await asyncio.sleep(_LOOK_AGAIN)


def _handlers() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
