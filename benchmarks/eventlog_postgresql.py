"""What an event log on PostgreSQL takes and how soon others have it, beside the plain driver.

    uv run benchmarks/eventlog_postgresql.py
    uv run benchmarks/eventlog_postgresql.py --seconds 10 --followed 10000

Starts a server from the wheel, with ``fsync`` on, in the temporary folder (``TMPDIR``), or uses the
database given with ``--url``. Prints the machine, then:

- events per second, as ``eventlog_append.py``: one at a time, by many appenders at once, in
  batches. *plain psycopg* inserts the same rows into a table with the same indexes on one
  connection, one commit per event or batch, and takes numbers under no lock;
- milliseconds from ``append`` in one process to a follower in another, one event at a time;
- what following ``--followed`` topics costs while nothing happens: CPU of this process, statements
  and connections.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from eventlog_append import metrics, of_log, rate

from headwater.eventlog import Record, open_log
from headwater.eventlog.sql import SqlLog

TABLE = """
    DROP TABLE IF EXISTS plain_events;
    CREATE TABLE plain_events (
        topic_id bigint, number bigint, xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        at bigint NOT NULL, size integer NOT NULL, key text, part integer NOT NULL,
        data text NOT NULL, PRIMARY KEY (topic_id, number)
    );
    CREATE INDEX ON plain_events (xid, topic_id);
    CREATE UNIQUE INDEX ON plain_events (topic_id, key, part) WHERE key IS NOT NULL
"""
INSERT = (
    "INSERT INTO plain_events (topic_id, number, at, size, part, data)"
    " VALUES (%s, %s, %s, %s, 0, %s)"
)
WRITER = """
import asyncio, sys, time
from headwater.eventlog import open_log

async def main(url, count, pause):
    async with open_log(url) as log:
        for n in range(count):
            await log.append("latency", {"n": n, "sent": time.monotonic()})
            await asyncio.sleep(pause)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
"""


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The address of a database."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from support.postgres import Postgres

    started = Postgres(fsync="on")
    try:
        started.create()
        started.start()
        yield f"postgresql://postgres@/postgres?host={started.folder}"
    finally:
        started.remove()


async def of_driver(
    url: str, args: argparse.Namespace, data: list[dict[str, Any]]
) -> list[float | None]:
    number = 0

    def rows(events: list[dict[str, Any]], topic: int) -> list[tuple[Any, ...]]:
        nonlocal number
        found = []
        for event in events:
            number += 1
            text = json.dumps(event, separators=(",", ":"))
            found.append((topic, number, time.time_ns() // 1000, len(text), text))
        return found

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(TABLE)

        async def one(call: int) -> int:
            (row,) = rows([data[call % len(data)]], call % args.topics)
            await connection.execute(INSERT, row)
            return 1

        async def batch(call: int) -> int:
            start = call * args.batch % (len(data) - args.batch + 1)
            events = data[start : start + args.batch]
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(INSERT, rows(events, call % args.topics))
            return args.batch

        return [await rate(one, args.seconds), None, await rate(batch, args.seconds)]


class Timed:
    """A follower that notes how long each event was on its way."""

    def __init__(self, wanted: int) -> None:
        self.taken: list[float] = []
        self.done = asyncio.Event()
        self._wanted = wanted

    def deliver(self, records: Sequence[Record]) -> None:
        now = time.monotonic()
        self.taken += [now - record.data["sent"] for record in records if "sent" in record.data]
        if len(self.taken) >= self._wanted:
            self.done.set()

    def reset(self, reason: str, _bounds: object) -> None:
        raise AssertionError(reason)


async def latency(url: str, count: int) -> str:
    async with open_log(url) as log:
        timed = Timed(count)
        await log.follow("latency", timed)
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, url, str(count), "0.005"
        )
        async with asyncio.timeout(120):
            await timed.done.wait()
            await writer.wait()
    cuts = statistics.quantiles(timed.taken, n=100)
    return f"p50 {1000 * cuts[49]:.1f} ms, p99 {1000 * cuts[98]:.1f} ms"


async def idle(url: str, topics: int, seconds: float) -> str:
    log = open_log(url)
    assert isinstance(log, SqlLog)
    async with log:
        statements: list[str] = []
        sa.event.listen(
            log.engine.sync_engine, "before_cursor_execute", lambda *a: statements.append(a[2])
        )
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for n in range(topics):
                group.create_task(log.follow(f"idle:{n}", Timed(1)))
        joined = time.monotonic() - begun
        await asyncio.sleep(1)
        statements.clear()
        before = time.process_time()
        await asyncio.sleep(seconds)
        used = time.process_time() - before
        async with await psycopg.AsyncConnection.connect(url) as admin:
            cursor = await admin.execute(
                "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
            )
            connections = (await cursor.fetchall())[0][0]
        return (
            f"joined in {joined:.2f} s; then {100 * used / seconds:.2f} % CPU, "
            f"{len(statements) / seconds:.1f} statements/s, {connections} connections"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", help="of a database to use")
    parser.add_argument("--seconds", type=float, default=3.0, help="per figure")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--appenders", type=int, default=100)
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--followed", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=500, help="of the latency figure")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    data = [metrics(chance) for _ in range(max(2_000, args.batch))]
    with server(args.url) as url:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            version = connection.info.parameter_status("server_version")
        print(
            f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
            f"PostgreSQL {version}; seed {args.seed}, {args.topics} topics"
        )
        print(
            f"{'events per second':18}{'one at a time':>16}{f'{args.appenders} at once':>16}"
            f"{f'batches of {args.batch}':>18}"
        )
        lines: list[tuple[str, list[Any]]] = [
            ("postgresql", await of_log(open_log(url), args, data)),
            ("plain psycopg", await of_driver(url, args, data)),
        ]
        for name, (one, many, batch) in lines:
            shown = [f"{figure:,.0f}" if figure else "-" for figure in (one, many, batch)]
            print(f"{name:18}{shown[0]:>16}{shown[1]:>16}{shown[2]:>18}")
        print(f"append to a follower in another process: {await latency(url, args.events)}")
        print(f"{args.followed} topics: {await idle(url, args.followed, args.seconds)}")


if __name__ == "__main__":
    asyncio.run(main())
