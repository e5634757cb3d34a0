"""How long an event takes from another process to the clients of a server with many streams.

    uv run python -m benchmarks.event_logs.latency
    uv run python -m benchmarks.event_logs.latency --engine redis --topics 1 --events 100
    git worktree add ../before COMMIT
    uv run python -m benchmarks.event_logs.latency --before ../before/src --rounds 3

Three processes: a writer that appends to the log, one event at a time and at random moments;
``headwater serve`` with one worker, which follows the log; and this one, with ``--streams`` open
streams of metrics spread over the topics. Engines are started from their wheels in the temporary
folder (``TMPDIR``), with the durability that is their default: Valkey flushes its file each second,
NATS every two minutes, PostgreSQL and SQLite at each commit.

Prints for each engine milliseconds from before the append, in the writer, until a client has the
event: the median and the 99th of 100 over all deliveries, and of the append alone in the writer;
and the server's processor time for each delivery. With ``--before`` another version is measured
too, round by round in turn; each row is the round with the lowest median.
All processes share the machine's processors, so the clients' own work is in the figures; as root
they come before other programs. A log in memory has one process only, so it cannot be measured so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.event_logs.engines import DURABLE, ROOT, engine
from benchmarks.event_logs.proof import satellites
from benchmarks.fanout.machine import cpu_seconds, described, raise_file_limit, raise_priority
from running import Running
from serving import Server

from headwater.eventlog import open_log

__all__ = ["Delivery", "cuts", "opened"]

_SENT = re.compile(rb'event: metrics\nid: [^\n]*\ndata: [^\n]*"requests_per_s":([0-9.]+)')


class Delivery(asyncio.Protocol):
    """One stream: notes how long each event was on its way. Blocks come whole, as they are small.

    Events say in ``requests_per_s`` when they were sent, by the clock that all processes share.
    """

    def __init__(self, topic: str, key: str, taken: list[float]) -> None:
        self._request = (
            f"GET /api/satellites/{topic}/metrics/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {key}\r\n\r\n"
        ).encode()
        self._taken = taken
        self._transport: asyncio.Transport | None = None
        self.live: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self.live.done() and b"event: snapshot" in data:
            self.live.set_result(None)
            return
        self._taken += [now - float(sent) for sent in _SENT.findall(data)]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.live.done():
            self.live.set_exception(exc or ConnectionResetError("the stream was refused"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def opened(
    port: int, key: str, topics: Sequence[str], streams: int, taken: list[float]
) -> list[Delivery]:
    """Streams that are all open, spread over the topics."""
    loop, found = asyncio.get_running_loop(), list[Delivery]()
    for start in range(0, streams, 50):
        some = [
            Delivery(topics[n % len(topics)], key, taken)
            for n in range(start, min(start + 50, streams))
        ]
        for each in some:
            await loop.create_connection(lambda each=each: each, "127.0.0.1", port)  # type: ignore[misc]
        await asyncio.gather(*(each.live for each in some))
        found += some
    return found


def cuts(seconds: Sequence[float]) -> tuple[float, float]:
    """Median and 99th of 100, in milliseconds."""
    ordered = statistics.quantiles(seconds, n=100)
    return 1000 * ordered[49], 1000 * ordered[98]


async def write(url: str, topics: Sequence[str], events: int, rate: float) -> None:
    """The writer's process; prints how long each append took."""
    dice, appends = random.Random(1), list[float]()
    async with open_log(url) as log:
        # Opened and warm before the first that counts.
        await log.append("warm", {"memory_mb": 0})
        for n in range(events):
            await asyncio.sleep(dice.uniform(0.5, 1.5) / rate)
            sent = time.monotonic()
            event = {"cpu_percent": 1.0, "memory_mb": n, "requests_per_s": sent, "errors_per_s": 0}
            await log.append(f"satellite:{dice.choice(topics)}", event)
            appends.append(time.monotonic() - sent)
    print(json.dumps(appends))


@contextmanager
def version(source: Path | None) -> Iterator[None]:
    """Processes that begin within the block run the version in this folder ``src``."""
    kept = os.environ.get("PYTHONPATH")
    if source is not None:
        os.environ["PYTHONPATH"] = str(source.resolve())
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH", None)
        if kept is not None:
            os.environ["PYTHONPATH"] = kept


async def run(name: str, seeded: Path, options: argparse.Namespace) -> list[float]:
    """The figures of one engine; the last one is how many deliveries were missing."""
    with tempfile.TemporaryDirectory() as folder:
        async with engine(name, Path(folder)) as made:
            server = Running(seeded, Path(folder), event_log=made.url)
            try:
                await asyncio.to_thread(server.start)
                topics = await asyncio.to_thread(satellites, server, options.topics)
                key = server.headers["Authorization"].removeprefix("Bearer ")
                taken: list[float] = []
                streams = await opened(server.port, key, topics, options.streams, taken)
                each = options.streams / options.topics
                used = cpu_seconds([server.process.pid])
                writer = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "benchmarks.event_logs.latency", "--write", made.url,
                    "--events", str(options.events), "--rate", str(options.deliveries / each),
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
                )  # fmt: skip
                out, _ = await writer.communicate(json.dumps(topics).encode())
                end, wanted = time.monotonic() + 30, int(options.events * each)
                while len(taken) < wanted and time.monotonic() < end:
                    await asyncio.sleep(0.05)
                used = cpu_seconds([server.process.pid]) - used
                for one in streams:
                    one.close()
            finally:
                server.close()
    appends = cuts(json.loads(out))
    return [*cuts(taken), *appends, 1e6 * used / len(taken), wanted - len(taken)]


def row(name: str, rounds: Sequence[Sequence[float]]) -> str:
    """The best of the rounds, and what was missing in any."""
    *figures, _ = min(rounds)
    missing = sum(one[-1] for one in rounds)
    note = f" ({missing:.0f} missing)" if missing else ""
    return f"| {name}{note} | " + " | ".join(f"{figure:,.1f}" for figure in figures) + " |"


def seed(folder: Path) -> None:
    """A database with a user, for every server."""
    server = Server(folder)
    try:
        server.seed()
        server.stop()
        server.save()
    finally:
        server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How long an event takes to the clients.")
    parser.add_argument("--engine", choices=DURABLE, action="append", help="all if not given")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--deliveries", type=float, default=1000.0, help="a second, about")
    parser.add_argument("--before", type=Path, help="the folder src of another version")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.write:
        asyncio.run(write(options.write, json.load(sys.stdin), options.events, options.rate))
        return 0
    if options.streams % options.topics:
        parser.error("--streams must be a multiple of --topics")
    raise_file_limit()
    raise_priority()
    print(described())
    print(f"{options.streams} streams, {options.topics} topics\n")
    print("| engine | to a client: p50 ms | p99 ms | append alone: p50 ms | p99 ms | CPU us |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    versions: dict[str, Path | None] = {"": None}
    if options.before is not None:
        versions = {", before": options.before, "": None}
    with tempfile.TemporaryDirectory() as folder:
        for which, source in versions.items():
            with version(source):
                (Path(folder) / f"seeded{which}").mkdir()
                seed(Path(folder) / f"seeded{which}")
        for name in options.engine or DURABLE:
            found: dict[str, list[list[float]]] = {which: [] for which in versions}
            for turn in range(options.rounds):
                for which in sorted(versions, reverse=turn % 2 == 0):
                    with version(versions[which]):
                        seeded = Path(folder) / f"seeded{which}"
                        found[which].append(asyncio.run(run(name, seeded, options)))
            for which, rounds in found.items():
                print(row(name + which, rounds), flush=True)
    print("\nmemory is one process only")
    return 0


if __name__ == "__main__":
    sys.exit(main())
