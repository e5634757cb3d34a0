"""What it costs a server that each of its streams follows a topic of its own, and nothing happens.

    uv run python -m benchmarks.event_logs.idle
    uv run python -m benchmarks.event_logs.idle --streams 1000 --engine redis

Starts each engine from its wheel in the temporary folder (``TMPDIR``), and ``headwater serve`` with
one worker on it, and opens a stream of the metrics of each of ``--streams`` satellites. Prints for
each engine: streams opened a second; the server's further memory, with all that belongs to the
streams' connections; its processor time over ``--seconds`` in which nothing is appended, in percent
of a core, in which each stream has its heartbeat and is asked whether it may still read; and its
connections to the engine.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from benchmarks.event_logs.engines import DURABLE, Engine, engine
from benchmarks.event_logs.latency import opened
from benchmarks.fanout.machine import (
    cpu_seconds,
    described,
    memory,
    raise_file_limit,
    raise_priority,
)
from running import Running
from serving import Server

_ESTABLISHED = "01"


def registered(database: Path, count: int) -> list[str]:
    """Satellites by plain SQL: over HTTP ten thousand take a while."""
    found = [f"{n:032x}" for n in range(1, count + 1)]
    with sqlite3.connect(database) as connection:
        connection.executemany(
            "INSERT INTO satellites (id, name, key_hash) VALUES (?, ?, ?)",
            [(one, f"s-{one}", one) for one in found],
        )
    connection.close()
    return found


def connections(made: Engine) -> int | None:
    """How many the engine has from others; None for one without a server."""
    if not made.has_server:
        return None
    if made.name == "postgresql":
        with psycopg.connect(made.url) as connection:
            asked = connection.execute(
                "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
            ).fetchone()
            return None if asked is None else int(asked[0])
    port = int(made.url.rpartition(":")[2].partition("/")[0])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        row[3] == _ESTABLISHED and int(row[2].rpartition(":")[2], 16) == port for row in rows
    )


async def measure(server: Running, made: Engine, options: argparse.Namespace) -> str:
    """The figures of one engine, as a row."""
    key = server.headers["Authorization"].removeprefix("Bearer ")
    topics = await asyncio.to_thread(registered, server.database, options.streams)
    pids = [server.process.pid]
    before, began = memory(pids), time.monotonic()
    streams = await opened(server.port, key, topics, options.streams, [])
    rate = options.streams / (time.monotonic() - began)
    # Rights are asked again, and connections of the opening go back to their pools.
    await asyncio.sleep(2)
    used = cpu_seconds(pids)
    await asyncio.sleep(options.seconds)
    used = cpu_seconds(pids) - used
    grown = memory(pids) - before
    found = connections(made)
    for one in streams:
        one.close()
    cells: Sequence[Any] = (
        made.name,
        f"{rate:,.0f}",
        f"{grown / 1e6:,.0f} MB",
        f"{grown / options.streams / 1e3:,.1f} KB",
        f"{100 * used / options.seconds:.1f} %",
        "a file" if found is None else found,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


async def run(name: str, seeded: Server, options: argparse.Namespace) -> str:
    """One engine in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with engine(name, Path(folder)) as made:
            server = Running(seeded.folder, Path(folder), event_log=made.url)
            try:
                await asyncio.to_thread(server.start)
                return await measure(server, made, options)
            finally:
                server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What idle streams of many topics cost.")
    parser.add_argument("--engine", choices=DURABLE, action="append", help="all if not given")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args(arguments)
    raise_file_limit()
    raise_priority()
    print(described())
    print(f"{options.streams:,} topics, a stream each\n")
    print("| engine | opened/s | memory | each | idle CPU | connections to the engine |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        seeded = Server(Path(folder))
        try:
            seeded.seed()
            seeded.stop()
            seeded.save()
            for name in options.engine or DURABLE:
                print(asyncio.run(run(name, seeded, options)), flush=True)
        finally:
            seeded.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
