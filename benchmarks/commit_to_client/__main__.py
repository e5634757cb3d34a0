"""How long a committed row takes to its clients, beside a query per stream every 3 s.

    uv run python -m benchmarks.commit_to_client
    uv run python -m benchmarks.commit_to_client --database sqlite --streams 1000 --rows 50

Starts a server (FastAPI under uvicorn with the direct sender, on a core of its own) on a new
database: PostgreSQL from the wheel in the temporary folder (``TMPDIR``), or SQLite; both if not
told. This process, on another core, opens the streams and writes rows one at a time, at random
moments 50 to 150 ms apart:

- *same process*: by ``POST`` to the server, which commits them itself;
- *other process*: this one commits them with the plain driver;
- *polled*: the same, and the streams are those of the pattern that Headwater replaces, where each
  stream asks the database every 3 s. A tenth of the rows, as each takes long.

Prints for each: the milliseconds from the end of the commit to a client, over all streams and rows;
the statements that the server gave to the database per second while the rows were written (those of
its own writes are among them); and the CPU that the server used per row and stream. All are of one
run, one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.fanout.machine import (  # noqa: E402
    CLIENT_CORE,
    cpu_seconds,
    described,
    pin,
    raise_file_limit,
)

from support.postgres import Postgres  # noqa: E402

TEXT = "a row of some length, as a log line has it"
INSERT = f"INSERT INTO latency_rows (text) VALUES ('{TEXT}')"
_ROW = re.compile(rb'event: row\n(?:id: [^\n]*\n)?data: {"id":(\d+)')


class Stream(asyncio.Protocol):
    """One client: notes when each row came."""

    def __init__(self, path: str, came: dict[int, list[float]]) -> None:
        self._path, self._came, self._kept = path, came, b""
        self._transport: asyncio.Transport | None = None
        self.live: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(f"GET {self._path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time.time()
        if not self.live.done() and b"\n\n" in data:
            self.live.set_result(None)
            return
        self._kept += data
        whole = self._kept.rfind(b"\n\n") + 2
        found, self._kept = _ROW.findall(self._kept[:whole]), self._kept[whole:]
        for number in found:
            self._came.setdefault(int(number), []).append(now)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.live.done():
            self.live.set_exception(exc or ConnectionResetError("the stream was refused"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@contextlib.contextmanager
def database(kind: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Its address for SQLAlchemy, and what connects to it by the plain driver."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "latency.db"
            yield f"sqlite+aiosqlite:///{path}", lambda: sqlite3.connect(path, timeout=5)
        return
    server = Postgres(fsync="on")
    try:
        server.create()
        server.start()
        yield server.url("postgres"), lambda: psycopg.connect(server.conninfo("postgres"))
    finally:
        server.remove()


@contextlib.contextmanager
def serving(url: str) -> Iterator[tuple[str, int]]:
    """Its address and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "uvicorn", "--factory", "benchmarks.commit_to_client.app:create",
            "--http", "headwater.web.uvicorn:Protocol", "--port", str(port), "--backlog", "8192",
            "--log-level", "error",
        ],
        cwd=ROOT, env={**os.environ, "BENCHMARK_URL": url}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/statements").raise_for_status()
                break
            except httpx.TransportError:
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit("the server did not start") from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.kill()
        process.wait()


async def opened(address: str, path: str, streams: int, came: dict[int, list[float]]) -> list[Any]:
    loop, host, port = asyncio.get_running_loop(), "127.0.0.1", int(address.rpartition(":")[2])
    found: list[Any] = []
    for start in range(0, streams, 100):
        some = min(100, streams - start)
        made = await asyncio.gather(
            *(loop.create_connection(lambda: Stream(path, came), host, port) for _ in range(some))
        )
        found += [protocol for _, protocol in made]
        await asyncio.gather(*(protocol.live for _, protocol in made))
    return found


async def measure(
    address: str, pid: int, how: str, streams: int, rows: int, connect: Callable[[], Any]
) -> dict[str, Any]:
    came: dict[int, list[float]] = {}
    path = "/polled/stream" if how == "polled" else "/rows/stream"
    following = await opened(address, path, streams, came)
    await asyncio.sleep(1)
    dice, committed = random.Random(1), dict[int, float]()
    with contextlib.closing(connect()) as connection:
        async with httpx.AsyncClient(base_url=address) as client:
            asked, used = (await client.get("/statements")).json(), cpu_seconds([pid])
            began = time.monotonic()
            for _ in range(rows):
                await asyncio.sleep(dice.uniform(0.05, 0.15))
                if how == "same process":
                    told = (await client.post("/rows")).raise_for_status().json()
                    committed[told["id"]] = told["committed"]
                else:
                    cursor = connection.execute(INSERT + " RETURNING id")
                    (number,) = cursor.fetchone()
                    connection.commit()
                    committed[number] = time.time()
            patience = time.monotonic() + 30
            while sum(len(times) for times in came.values()) < rows * streams:
                if time.monotonic() > patience:
                    break
                await asyncio.sleep(0.02)
            seconds = time.monotonic() - began
            used = cpu_seconds([pid]) - used
            asked = (await client.get("/statements")).json() - asked
    for each in following:
        each.close()
    await asyncio.sleep(0.5)
    delays = [1000 * (at - committed[number]) for number, times in came.items() for at in times]
    return {
        "missing": rows * streams - len(delays),
        "p50": statistics.median(delays),
        "p99": statistics.quantiles(delays, n=100)[98] if len(delays) > 1 else delays[0],
        "statements": asked / seconds,
        "cpu": 1e6 * used / (rows * streams),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How long a committed row takes to its clients.")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], action="append")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 1000, 5000])
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args(arguments)
    raise_file_limit()
    pin(CLIENT_CORE)
    print(described())
    complete = True
    for kind in options.database or ["postgresql", "sqlite"]:
        print("\n| " + kind + " | streams | p50 ms | p99 ms | statements/s | CPU us/delivery |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
        for streams in options.streams:
            for how in ("same process", "other process", "polled"):
                rows = options.rows if how != "polled" else max(1, options.rows // 10)
                with database(kind) as (url, connect), serving(url) as (address, pid):
                    found = asyncio.run(measure(address, pid, how, streams, rows, connect))
                complete &= not found["missing"]
                lacks = f" ({found['missing']} missing)" if found["missing"] else ""
                print(
                    f"| {how}{lacks} | {streams:,} | {found['p50']:,.1f} | {found['p99']:,.1f} "
                    f"| {found['statements']:,.1f} | {found['cpu']:,.1f} |",
                    flush=True,
                )
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
