"""What it costs a process to follow many topics of a log, idle and when something is appended.

    uv run benchmarks/eventlog_topics.py
    uv run benchmarks/eventlog_topics.py --topics 1000 --idle 30 --postgresql URL

For each engine found: seconds until all topics are followed; this process's further memory and
tasks, and its CPU time over ``--idle`` seconds in which nothing happens; then the time from before
an append (by another log object in this process) to the follower, over ``--events`` appends to
random topics, one after another. Engines are started as in ``eventlog_append.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eventlog_servers as servers

from headwater.eventlog import Record, open_log


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Waiter:
    """A follower that signals when something came."""

    news = asyncio.Event()

    def deliver(self, records: Sequence[Record]) -> None:
        self.news.set()

    def reset(self, reason: str, bounds: Any) -> None:
        raise AssertionError(reason)


async def measure(name: str, url: str, args: argparse.Namespace) -> None:
    chance = random.Random(args.seed)
    Waiter.news = asyncio.Event()
    async with open_log(url) as log, open_log(url) as writer:
        await writer.append("warm", {"n": 0})
        memory, tasks, begun = resident(), len(asyncio.all_tasks()), time.perf_counter()
        waiter = Waiter()
        topics = [f"topic:{n}" for n in range(args.topics)]
        await asyncio.gather(*(log.follow(topic, waiter) for topic in topics))
        followed = time.perf_counter() - begun
        memory, tasks = resident() - memory, len(asyncio.all_tasks()) - tasks
        cpu = time.process_time()
        await asyncio.sleep(args.idle)
        cpu = time.process_time() - cpu
        times = []
        for n in range(args.events):
            waiter.news.clear()
            begun = time.perf_counter()
            await writer.append(chance.choice(topics), {"n": n, "fill": "x" * 80})
            await waiter.news.wait()
            times.append(time.perf_counter() - begun)
        times.sort()
        p50, p99 = (times[len(times) * share // 100] * 1e3 for share in (50, 99))
        print(
            f"{name:16}{followed:>12.2f} s{memory / 1e6:>10.1f} MB{tasks:>7}"
            f"{cpu / args.idle * 100:>11.2f} %"
            f"{p50:>11.2f} ms{p99:>9.2f} ms"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topics", type=int, default=10_000)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds")
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgresql", metavar="URL", help="of a database to measure too")
    args = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; "
        f"seed {args.seed}, {args.topics} topics"
    )
    print(
        f"{'':16}{'to follow':>14}{'memory':>13}{'tasks':>7}{'idle CPU':>13}{'p50':>14}{'p99':>12}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await measure("sqlite", f"sqlite:///{folder}/events.db", args)
        if args.postgresql:
            await measure("postgresql", args.postgresql, args)
        with servers.valkey(folder) as url:
            if url is not None:
                await measure("redis (Valkey)", url, args)
        with servers.nats(folder) as url:
            if url is not None:
                await measure("nats", url, args)


if __name__ == "__main__":
    asyncio.run(main())
