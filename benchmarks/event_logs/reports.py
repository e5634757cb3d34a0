"""Does the backend keep up with satellites that report all the time, on each engine?

    uv run python -m benchmarks.event_logs.reports
    uv run python -m benchmarks.event_logs.reports --batch 1 --workers 2 --engine redis
    uv run python -m benchmarks.event_logs.reports --rate 5000 --batch 50

Starts each engine from its wheel in the temporary folder (``TMPDIR``), with the durability that is
its default, and ``headwater serve --event-log`` on it. Satellites, each over one connection that it
keeps, post their metrics at fixed moments, ``--batch`` of them in a request, ``--rate`` reports a
second in all; a satellite that had no answer yet when its next report is due is late. Fifty streams
in another process follow as many of them.

Prints for each engine: reports a second that were acknowledged; milliseconds from the moment at
which a request was due until its answer, and until the streams had it, median and 99th of 100, for
the first and the second half of the time; how much of a core the server's processes, and those of
the engine, used. It falls behind if the second half's medians are more than twice the first's and
100 ms more, or if fewer than 97 of 100 reports were acknowledged in time; it then ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.event_logs.engines import ENGINES, ROOT, Engine, engine
from benchmarks.event_logs.latency import cuts, opened
from benchmarks.fanout.machine import cpu_seconds, described, raise_file_limit, raise_priority, tree
from running import Running
from serving import Server

_STREAMS = 50


@dataclass(slots=True)
class Satellite:
    """One connection that reports; ``taken`` has when each answer was due and how long it took."""

    port: int
    id: str
    key: str
    batch: int
    taken: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0

    async def report(self, first: float, every: float, end: float) -> None:
        """Post at fixed moments, or as soon as the answer before is there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        due = first
        try:
            while due < end:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                writer.write(self._request(due))
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                if head.startswith(b"HTTP/1.1 201 "):
                    self.taken.append((due, time.monotonic() - due))
                else:
                    self.refused += 1
                due += every
        finally:
            writer.transport.abort()

    def _request(self, due: float) -> bytes:
        # The streams see by this when it was due.
        one = {"cpu_percent": 1.5, "memory_mb": 512.0, "requests_per_s": due, "errors_per_s": 0.0}
        body = json.dumps({"reports": [one] * self.batch}).encode()
        head = (
            f"POST /api/satellites/{self.id}/metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def registered(server: Running, count: int, batch: int) -> list[Satellite]:
    """New satellites with their keys."""
    made = (server.post("/api/satellites", {"name": f"s-{n}"}) for n in range(count))
    return [Satellite(server.port, one["id"], one["api_key"], batch) for one in made]


async def stream(port: int, key: str, topics: Sequence[str]) -> None:
    """The process of streams, until standard input ends; prints when reports were due and came."""
    taken: list[float] = []
    came: list[tuple[float, float]] = []

    class Noted(list[float]):
        """Notes both moments of what is added."""

        def __iadd__(self, lags: Any) -> Any:
            now = time.monotonic()
            came.extend((now - lag, lag) for lag in lags)
            return self

    await opened(port, key, topics, len(topics), Noted(taken))
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, lambda: sys.stdin.readline() == "" and ended.set())
    await ended.wait()
    print(json.dumps(came))


async def measure(server: Running, made: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one engine."""
    satellites = await asyncio.to_thread(registered, server, options.satellites, options.batch)
    key = server.headers["Authorization"].removeprefix("Bearer ")
    followed = [one.id for one in satellites[:_STREAMS]]
    streams = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.event_logs.reports", "--follow",
        json.dumps([server.port, key, followed]),
        stdin=-1, stdout=-1, cwd=ROOT, limit=1 << 28,
    )  # fmt: skip
    assert streams.stdout is not None
    assert await streams.stdout.readline() == b"ready\n"
    every = options.satellites * options.batch / options.rate
    dice = random.Random(1)
    begin = time.monotonic() + 0.5
    end = begin + options.seconds
    pids = {"server": tree(server.process.pid), "engine": made.pids and tree(made.pids[0])}
    used = {what: cpu_seconds(found) for what, found in pids.items()}
    async with asyncio.TaskGroup() as group:
        for one in satellites:
            group.create_task(one.report(begin + dice.uniform(0, every), every, end))
    seconds = time.monotonic() - begin
    used = {what: cpu_seconds(found) - used[what] for what, found in pids.items()}
    await asyncio.sleep(0.5)
    out, _ = await streams.communicate(b"")
    taken = [pair for one in satellites for pair in one.taken]
    middle = begin + options.seconds / 2
    wanted = sum(len(one.taken) for one in satellites[:_STREAMS]) * options.batch
    came = json.loads(out)
    answers, deliveries = _halves(taken, middle), _halves(came, middle)
    rate = len(taken) * options.batch / seconds
    behind = any(second[0] > max(2 * first[0], first[0] + 100) for first, second in (
        answers, deliveries,
    )) or rate < 0.97 * options.rate  # fmt: skip
    return {
        "rate": rate,
        "answers": answers,
        "deliveries": deliveries,
        "refused": sum(one.refused for one in satellites),
        "missing": wanted - len(came),
        "cpu": {what: 100 * spent / seconds for what, spent in used.items()},
        "behind": behind,
    }


def _halves(
    taken: Sequence[tuple[float, float]], middle: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    early = [lag for due, lag in taken if due < middle]
    late = [lag for due, lag in taken if due >= middle]
    return cuts(early), cuts(late)


async def run(name: str, seeded: Server, options: argparse.Namespace) -> dict[str, Any]:
    """One engine in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with engine(name, Path(folder)) as made:
            server = Running(
                seeded.folder, Path(folder), workers=options.workers, event_log=made.url
            )
            try:
                await asyncio.to_thread(server.start)
                return await measure(server, made, options)
            finally:
                server.close()


def shown(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    halves = [
        " → ".join(f"{half[place]:,.1f}" for half in found[what])
        for what in ("answers", "deliveries")
        for place in (0, 1)
    ]
    faults = [f"{found[what]} {what}" for what in ("refused", "missing") if found[what]]
    faults += ["it fell behind"] * found["behind"]
    cells = [f"{found['rate']:,.0f}", *halves, *(f"{cpu:.0f} %" for cpu in found["cpu"].values())]
    return f"| {name} | " + " | ".join([*cells, ", ".join(faults) or "kept up"]) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Does the backend keep up with its satellites?")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="all if not given")
    parser.add_argument("--rate", type=float, default=2000.0, help="reports a second")
    parser.add_argument("--batch", type=int, default=10, help="reports in a request")
    parser.add_argument("--satellites", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.follow:
        asyncio.run(stream(*json.loads(options.follow)))
        return 0
    raise_file_limit()
    raise_priority()
    print(described())
    print(
        f"{options.rate:,.0f} reports/s in requests of {options.batch}, {options.satellites} "
        f"satellites, {_STREAMS} streams, {options.workers} workers\n"
    )
    print(
        "| engine | reports/s | answer p50 ms | answer p99 ms | to a stream p50 ms | p99 ms | "
        "server | engine | |"
    )
    print("| --- " * 9 + "|", flush=True)
    behind = False
    with tempfile.TemporaryDirectory() as folder:
        seeded = Server(Path(folder))
        try:
            seeded.seed()
            seeded.stop()
            seeded.save()
            for name in options.engine or ENGINES:
                if name == "memory" and options.workers > 1:
                    continue
                found = asyncio.run(run(name, seeded, options))
                behind |= found["behind"]
                print(shown(name, found), flush=True)
        finally:
            seeded.close()
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
