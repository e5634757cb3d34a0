"""Real servers in this process, on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from support.until import until

# The HTTP protocol of servers that name none; tests that hold for every sender set it.
HTTP = "auto"


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the test's process keeps its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


def free_socket() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[int]:
    """Run ``app`` under uvicorn; gives the port."""
    async with stoppable(app, **options) as (port, _):
        yield port


@asynccontextmanager
async def stoppable(
    app: Any, *, send_buffer: int | None = None, **options: Any
) -> AsyncIterator[tuple[int, Callable[[], None]]]:
    """The same; gives what tells the server to end, too.

    Arguments:
        send_buffer: bytes that the kernel takes of an answer that is not read; else megabytes.
    """
    settings = {
        "log_level": "warning",
        "timeout_graceful_shutdown": 5,
        "loop": "none",
        "http": HTTP,
    }
    settings.update(options)
    server = Server(uvicorn.Config(app, **settings))
    sock = free_socket()
    if send_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)

    def stop() -> None:
        server.should_exit = True

    async with answering(server, sock) as port:
        yield port, stop


@asynccontextmanager
async def answering(server: Server, sock: socket.socket) -> AsyncIterator[int]:
    """Run a server at a socket; gives the port."""
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        await until(lambda: server.started or task.done())
        if task.done():
            task.result()
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 15)
        sock.close()
