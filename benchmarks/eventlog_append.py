"""Events per second that can be appended, per engine, beside what the driver itself can do.

    uv run benchmarks/eventlog_append.py
    uv run benchmarks/eventlog_append.py --seconds 10 --batch 1000 --appenders 200 --topics 50

Prints the machine, then one line per engine with events per second: appended one at a time, each
awaited; by many appenders at once, one event each; and in batches. Events are the metrics of
satellites, about 90 bytes of JSON, spread over the topics.

*plain sqlite3* is the standard library's driver inserting the same rows into a table with the same
two indexes, one commit per event or batch, in this thread: the ceiling that SQLite itself sets.
Both have a write-ahead log and ``synchronous=FULL``, so each commit waits for the disk of the
temporary folder (``TMPDIR``). Valkey and NATS are started from their wheels, with the durability
that is their default, and *plain* is their drivers as ``eventlog_drivers.py`` uses them; PostgreSQL
is measured at the address given with ``--postgresql``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import eventlog_servers as servers

from headwater.eventlog import EventLog, open_log

TABLE = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, topic_id INTEGER NOT NULL, number INTEGER NOT NULL,
        at INTEGER NOT NULL, size INTEGER NOT NULL, key TEXT, part INTEGER NOT NULL,
        data TEXT NOT NULL, UNIQUE (topic_id, number)
    );
    CREATE UNIQUE INDEX events_key ON events (topic_id, key, part) WHERE key IS NOT NULL;
"""
INSERT = "INSERT INTO events (topic_id, number, at, size, part, data) VALUES (?, ?, ?, ?, 0, ?)"


def metrics(chance: random.Random) -> dict[str, Any]:
    """What a satellite reports."""
    return {
        "cpu_percent": round(chance.uniform(0, 100), 2),
        "memory_mb": round(chance.uniform(100, 4000), 1),
        "requests_per_s": round(chance.uniform(0, 500), 1),
        "errors_per_s": round(chance.uniform(0, 5), 2),
    }


async def rate(
    append: Callable[[int], Awaitable[int]], seconds: float, appenders: int = 1
) -> float:
    """Events per second of appenders that call ``append(n)``, which returns how many it added."""
    begun, added, calls = time.perf_counter(), 0, 0
    end = begun + seconds

    async def appender() -> None:
        nonlocal added, calls
        while time.perf_counter() < end:
            calls += 1
            count = await append(calls)
            added += count

    await asyncio.gather(*(appender() for _ in range(appenders)))
    return added / (time.perf_counter() - begun)


async def of_log(
    log: EventLog, args: argparse.Namespace, data: list[dict[str, Any]]
) -> list[float]:
    async def one(call: int) -> int:
        await log.append(f"satellite:{call % args.topics}", data[call % len(data)])
        return 1

    async def batch(call: int) -> int:
        start = call * args.batch % (len(data) - args.batch + 1)
        events = data[start : start + args.batch]
        return len(await log.append(f"satellite:{call % args.topics}", events))

    async with log:
        return [
            await rate(one, args.seconds),
            await rate(one, args.seconds, args.appenders),
            await rate(batch, args.seconds),
        ]


async def of_driver(
    path: Path, args: argparse.Namespace, data: list[dict[str, Any]]
) -> list[float | None]:
    connection = sqlite3.connect(path)
    connection.executescript(TABLE)
    number = 0

    def rows(events: list[dict[str, Any]], topic: int) -> list[tuple[Any, ...]]:
        nonlocal number
        found = []
        for event in events:
            number += 1
            text = json.dumps(event, separators=(",", ":"))
            found.append((topic, number, time.time_ns() // 1000, len(text), text))
        return found

    async def one(call: int) -> int:
        with connection:
            connection.executemany(INSERT, rows([data[call % len(data)]], call % args.topics))
        return 1

    async def batch(call: int) -> int:
        start = call * args.batch % (len(data) - args.batch + 1)
        with connection:
            events = data[start : start + args.batch]
            connection.executemany(INSERT, rows(events, call % args.topics))
        return args.batch

    figures: list[float | None] = [
        await rate(one, args.seconds),
        None,
        await rate(batch, args.seconds),
    ]
    connection.close()
    return figures


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--appenders", type=int, default=100)
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgresql", metavar="URL", help="of a database to measure too")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    data = [metrics(chance) for _ in range(max(2_000, args.batch))]
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}; seed {args.seed}, {args.topics} topics"
    )
    print(
        f"{'events per second':18}{'one at a time':>16}{f'{args.appenders} at once':>16}"
        f"{f'batches of {args.batch}':>18}"
    )
    with tempfile.TemporaryDirectory() as folder:
        lines: list[tuple[str, list[Any]]] = [
            ("memory", await of_log(open_log("memory://"), args, data)),
            ("sqlite", await of_log(open_log(f"sqlite:///{folder}/events.db"), args, data)),
            ("plain sqlite3", await of_driver(Path(folder) / "plain.db", args, data)),
        ]
        if args.postgresql:
            lines.append(("postgresql", await of_log(open_log(args.postgresql), args, data)))
        with servers.valkey(Path(folder)) as url:
            if url is not None:
                from eventlog_drivers import plain_redis

                lines.append(("redis (Valkey)", await of_log(open_log(url), args, data)))
                lines.append(("plain redis-py", await plain_redis(url, args, data, rate)))
        with servers.nats(Path(folder)) as url:
            if url is not None:
                from eventlog_drivers import plain_nats

                lines.append(("nats", await of_log(open_log(url), args, data)))
                lines.append(("plain nats-py", await plain_nats(url, args, data, rate)))
    for name, (one, many, batch) in lines:
        shown = [f"{figure:,.0f}" if figure else "-" for figure in (one, many, batch)]
        print(f"{name:18}{shown[0]:>16}{shown[1]:>16}{shown[2]:>18}")


if __name__ == "__main__":
    asyncio.run(main())
