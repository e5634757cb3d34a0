"""How fast a client that was away for long has everything, over HTTP.

    uv run python -m benchmarks.resume_gap
    uv run python -m benchmarks.resume_gap --database sqlite --gap 10000

Starts a server (FastAPI under uvicorn with the direct sender, on a core of its own) on a new
database: PostgreSQL from the wheel in the temporary folder (``TMPDIR``), or SQLite; both if not
told. A client takes a position, so many rows are committed, 100 in each transaction, and the client
resumes. Prints the items per second that it got, the milliseconds until the first of them, how much
more memory the server took at most, and whether each came once.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from benchmarks.commit_to_client.__main__ import TEXT, database, serving
from benchmarks.fanout.machine import CLIENT_CORE, described, pin

_ID = re.compile(rb'data: {"id":(\d+)')


def fill(kind: str, connection: Any, rows: int) -> None:
    if kind == "postgresql":
        connection.autocommit = True
        connection.execute(
            f"DO $$ BEGIN FOR n IN 1..{rows // 100} LOOP INSERT INTO latency_rows (text) "
            f"SELECT '{TEXT}' FROM generate_series(1, 100); COMMIT; END LOOP; END $$"
        )
        connection.execute("ANALYZE latency_rows")
        return
    for _ in range(rows // 100):
        connection.executemany("INSERT INTO latency_rows (text) VALUES (?)", [(TEXT,)] * 100)
        connection.commit()


def most_memory(pid: int) -> float:
    """In MB, since the process began."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(kind: str, gap: int) -> bool:
    with database(kind) as (url, connect), serving(url) as (address, pid):
        # The epoch begins with the first row at the latest.
        httpx.post(f"{address}/rows").raise_for_status()
        page = httpx.get(f"{address}/rows").raise_for_status().json()
        position, known = page["position"], page["rows"][0]["id"]
        with contextlib.closing(connect()) as connection:
            fill(kind, connection, gap)
        before = most_memory(pid)
        told, first, seconds = receive(address, position, gap)
        memory = most_memory(pid) - before
    complete = sorted(told) == list(range(known + 1, known + 1 + gap))
    print(
        f"| {kind} | {gap:,} | {gap / seconds:,.0f} | {1000 * first:,.0f} | {memory:,.0f} MB | "
        f"{'yes' if complete else 'NO'} |",
        flush=True,
    )
    return complete


def receive(address: str, position: str, gap: int) -> tuple[list[int], float, float]:
    """The ids, and the seconds to the first and to the last of them."""
    told: list[int] = []
    first, kept = 0.0, b""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
        client.settimeout(30)
        resume = f"Host: 127.0.0.1\r\nLast-Event-ID: {position}"
        client.sendall(f"GET /rows/stream HTTP/1.1\r\n{resume}\r\n\r\n".encode())
        while len(told) < gap:
            data = client.recv(1 << 18)
            if not data:
                break
            # Lines of chunks stand between blocks and are no data.
            kept += data
            whole = kept.rfind(b"\n\n") + 2
            told += map(int, _ID.findall(kept[:whole]))
            kept = kept[whole:]
            first = first or (time.perf_counter() - began if told else 0.0)
    return told, first, time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How fast a client that was away catches up.")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], action="append")
    parser.add_argument("--gap", type=int, nargs="+", default=[10_000, 1_000_000])
    options = parser.parse_args(arguments)
    pin(CLIENT_CORE)
    print(described())
    print()
    print("| database | rows | items/s | first, ms | more memory | each once |")
    print("| --- | ---: | ---: | ---: | ---: | --- |", flush=True)
    found = [
        measure(kind, gap)
        for kind in options.database or ["postgresql", "sqlite"]
        for gap in options.gap
    ]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
