"""A real server in this process and event loop, for tests and examples."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import uvicorn


class Server(uvicorn.Server):
    """uvicorn that leaves this process's signal handlers alone."""

    def capture_signals(self) -> Any:
        return nullcontext()


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[str]:
    """Serve ``app`` on a free port; gives its address."""
    server = Server(uvicorn.Config(app, log_level="warning", loop="none"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not (server.started or task.done()):  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
