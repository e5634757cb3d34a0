"""How long a row that another program inserts with plain SQL takes to the streams.

    uv run benchmarks/plain_sql_latency.py
    uv run benchmarks/plain_sql_latency.py --rows 1000 --streams 50 --seed 2

Starts ``headwater serve`` on a new SQLite database in a temporary folder, opens streams of one log,
and inserts rows from this process with ``sqlite3``, one per transaction, at random moments 10 to
110 ms apart. A row's latency is the time from the end of its commit until the last stream has it.
The target is a median under 300 ms; it exits with 1 when that is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from headwater.protocol import Decoder

HEADWATER = (sys.executable, "-m", "headwater")
EMAIL, PASSWORD = "bench@example.org", "a long enough password"
TARGET = 0.3
INSERT = "INSERT INTO log_entries (user_id, source, message) VALUES (?, 'bench', ?)"


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A server with one user; its address and database."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    database = folder / "headwater.db"
    environment = {
        **os.environ,
        "HEADWATER_DATABASE": f"sqlite:///{database}",
        # One user has all streams.
        "HEADWATER_STREAMS_PER_USER": "1000000",
    }
    for command, given in (("migrate", ""), (f"users add {EMAIL} --password-stdin", PASSWORD)):
        subprocess.run(
            [*HEADWATER, *command.split()],
            env=environment,
            input=given + "\n",
            text=True,
            check=True,
            capture_output=True,
        )
    process = subprocess.Popen(
        [*HEADWATER, "serve", "--port", str(port)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address) as client, asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.05)
        yield address, database
    finally:
        process.terminate()
        process.wait(30)


async def follow(client: httpx.AsyncClient, ready: asyncio.Event, told: asyncio.Queue) -> None:
    """One stream: when it has each item."""
    decoder = Decoder()
    async with client.stream("GET", "/api/logs/stream", timeout=None) as answer:
        answer.raise_for_status()
        async for data in answer.aiter_raw():
            for message in decoder.feed(data):
                if message.event == "log":
                    told.put_nowait(time.perf_counter())
                else:
                    ready.set()


async def measure(folder: Path, rows: int, streams: int, rng: random.Random) -> list[float]:
    """Seconds of each row."""
    limits = httpx.Limits(max_connections=streams + 1)
    async with (
        serving(folder) as (address, path),
        httpx.AsyncClient(base_url=address, headers={"Origin": address}, limits=limits) as client,
    ):
        answer = await client.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD})
        user_id = answer.raise_for_status().json()["id"]
        told: asyncio.Queue[float] = asyncio.Queue()
        ready = [asyncio.Event() for _ in range(streams)]
        following = [asyncio.create_task(follow(client, one, told)) for one in ready]
        await asyncio.gather(*(one.wait() for one in ready))
        found = []
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as database:
            for number in range(rows):
                await asyncio.sleep(rng.uniform(0.01, 0.11))
                with database:
                    database.execute(INSERT, (user_id, f"row {number}"))
                committed = time.perf_counter()
                async with asyncio.timeout(30):
                    found.append(max([await told.get() for _ in range(streams)]) - committed)
        for task in following:
            task.cancel()
        await asyncio.wait(following)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = measure(Path(folder), chosen.rows, chosen.streams, random.Random(chosen.seed))
        seconds = sorted(asyncio.run(work))
    median = statistics.median(seconds)
    p99 = seconds[min(len(seconds) - 1, round(len(seconds) * 0.99))]
    machine = f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}"
    print(f"{chosen.rows} rows, {chosen.streams} streams, seed {chosen.seed}; {machine}")
    print(
        f"median {median * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, most {seconds[-1] * 1000:.0f} ms"
    )
    return 0 if median < TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
