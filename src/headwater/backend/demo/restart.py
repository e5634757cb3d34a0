"""The demo's button that kills the server, to show how clients continue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter, Response

from headwater.backend.auth.dependencies import signed_in
from headwater.web.fastapi import GuardedRoute

# The folder that a demo which starts again in the same process takes over.
_FOLDER = "HEADWATER_DEMO_FOLDER"
# Seconds until the end, so that the answer leaves first.
_SOON = 0.05


@contextlib.contextmanager
def demo_folder() -> Iterator[tuple[Path, bool]]:
    """The demo's folder, removed at the end, and whether an earlier start has filled it."""
    taken_over = os.environ.pop(_FOLDER, None)
    folder = Path(taken_over or tempfile.mkdtemp(prefix="headwater-demo-"))
    try:
        yield folder, taken_over is not None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def restart_router(folder: Path, listener: socket.socket) -> APIRouter:
    """``POST /demo/restart``, for signed-in users.

    The process is replaced by a new one of the same number. Nothing is ended in order: the kernel
    closes the connections, as it does on ``kill -9``.
    """
    router = APIRouter(route_class=GuardedRoute, dependencies=[signed_in], tags=["demo"])

    def replace() -> None:
        os.environ[_FOLDER] = str(folder)
        port = listener.getsockname()[1]
        # The new process listens there itself.
        listener.set_inheritable(False)
        command = [sys.executable, "-m", "headwater", "demo", "--port", str(port)]
        os.execv(sys.executable, command)  # noqa: S606 - this very command, without a shell

    @router.post("/demo/restart", status_code=202, response_class=Response)
    async def restart() -> None:
        """Kill the demo's server and start it again."""
        asyncio.get_running_loop().call_later(_SOON, replace)

    return router
