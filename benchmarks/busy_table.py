"""Does a table that gets many rows let other work of the process through?

    uv run python -m benchmarks.busy_table
    uv run python -m benchmarks.busy_table --database sqlite --rate 5000 --seconds 10 --streams 20

Starts a server (FastAPI under uvicorn with the direct sender, on a core of its own) on a new
database: PostgreSQL from the wheel in the temporary folder (``TMPDIR``), or SQLite; both if not
told. Streams of another process follow the table, and this one commits so many rows a second, 50 in
each transaction. Prints the rows per second that were written, the milliseconds by which callbacks
of the server's event loop were late (median, p99, most), the milliseconds that a request for its
first page took meanwhile (median, most), the milliseconds from the last commit until every stream
had all, and the CPU that the server used; and whether each stream had each row once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from benchmarks.commit_to_client.__main__ import TEXT, Stream, database, opened, serving
from benchmarks.fanout.machine import CLIENT_CORE, cpu_seconds, described, pin

ROWS = 50


def write(kind: str, connect: Callable[[], Any], rate: int, seconds: float) -> tuple[int, float]:
    """How many rows, and when the last one was committed."""
    mark = "%s" if kind == "postgresql" else "?"
    statement = f"INSERT INTO latency_rows (text) VALUES {', '.join([f'({mark})'] * ROWS)}"
    rows, began = 0, time.perf_counter()
    with contextlib.closing(connect()) as connection:
        while time.perf_counter() - began < seconds:
            connection.execute(statement, [TEXT] * ROWS)
            connection.commit()
            rows += ROWS
            time.sleep(max(0.0, began + rows / rate - time.perf_counter()))
    return rows, time.time()


async def measure(
    kind: str, address: str, pid: int, connect: Callable[[], Any], options: argparse.Namespace
) -> bool:
    came: dict[int, list[float]] = {}
    streams: list[Stream] = await opened(address, "/rows/stream", options.streams, came)
    async with httpx.AsyncClient(base_url=address) as client:
        await client.get("/late")
        used, began = cpu_seconds([pid]), time.perf_counter()
        done: list[tuple[int, float]] = []
        arguments = (kind, connect, options.rate, options.seconds)
        writer = threading.Thread(target=lambda: done.append(write(*arguments)))
        writer.start()
        asked = []
        while writer.is_alive():
            start = time.perf_counter()
            (await client.get("/rows", params={"limit": 10})).raise_for_status()
            asked.append(1000 * (time.perf_counter() - start))
            await asyncio.sleep(0.1)
        seconds = time.perf_counter() - began
        ((rows, last),) = done
        patience = time.monotonic() + 60
        while sum(map(len, came.values())) < rows * options.streams:
            if time.monotonic() > patience:
                break
            await asyncio.sleep(0.01)
        used = cpu_seconds([pid]) - used
        late = [1000 * one for one in (await client.get("/late")).json()]
    for each in streams:
        each.close()
    complete = len(came) == rows and all(len(at) == options.streams for at in came.values())
    behind = 1000 * (max(max(at) for at in came.values()) - last)
    print(
        f"| {kind} | {rows / seconds:,.0f} | {statistics.median(late):.1f} | "
        f"{statistics.quantiles(late, n=100)[98]:.1f} | {max(late):.1f} | "
        f"{statistics.median(asked):.1f} | {max(asked):.1f} | {behind:.0f} | "
        f"{100 * used / seconds:.0f} % | {'yes' if complete else 'NO'} |",
        flush=True,
    )
    return complete


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Does a busy table let other work through?")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], action="append")
    parser.add_argument("--rate", type=int, default=5000, help="rows a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=20)
    options = parser.parse_args(arguments)
    pin(CLIENT_CORE)
    print(described())
    print()
    print(
        "|  | rows/s | late, ms: median | p99 | most | page, ms: median | most "
        "| behind, ms | CPU | each once |"
    )
    print("| --- |" + " ---: |" * 8 + " --- |", flush=True)
    complete = True
    for kind in options.database or ["postgresql", "sqlite"]:
        with database(kind) as (url, connect), serving(url) as (address, pid):
            complete &= asyncio.run(measure(kind, address, pid, connect, options))
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
