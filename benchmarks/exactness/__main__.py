"""Is each row told once? Writers with random delays, clients that drop and resume at random.

    uv run python -m benchmarks.exactness
    uv run python -m benchmarks.exactness --kills 20
    uv run python -m benchmarks.exactness --restarts 5
    uv run python -m benchmarks.exactness --rows 2000 --order prompt
    uv run python -m benchmarks.exactness --driver asyncpg

Starts a PostgreSQL server from the wheel in the temporary folder (``TMPDIR``), or uses the database
given with ``--url postgresql+psycopg://…``, and two processes that serve a feed of one tracked
table over HTTP, as an application would: FastAPI under uvicorn with the direct sender. Ten writers
insert rows in transactions of one to five rows that stay open for up to 100 ms, with savepoints,
rollbacks and a sequence that each session takes 50 numbers of; one further transaction is open for
5 s. Fifty streams of another process leave after a random number of events, also in the middle of
what has come, and resume from the last id at either server. With ``--kills`` a serving process is
killed (SIGKILL) and started again so many times meanwhile, the two in turn; with ``--restarts``
PostgreSQL is, by SIGQUIT, which is as good as a crash.

Prints, for each order: rows, lost and repeated ones over all streams, how many different orders the
streams saw, breaches of "what committed before another transaction began comes first", the
milliseconds from a commit's return to the client for streams that were open then, without those of
the long transaction (in total order that includes the wait for older transactions), how many
connections were resumed and how many the servers broke, and the length of the longest id. For each
restart of PostgreSQL: milliseconds from its taking connections again to the first row at the median
and at the last of the streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.exactness.clients import follow  # noqa: E402
from benchmarks.exactness.model import Own  # noqa: E402
from benchmarks.exactness.servers import Server  # noqa: E402
from benchmarks.exactness.writers import Written, long_one, write  # noqa: E402
from benchmarks.fanout.machine import described  # noqa: E402

from support.postgres import Postgres  # noqa: E402


async def run(
    url: str, order: str, options: argparse.Namespace, server: Postgres | None
) -> dict[str, Any]:
    engine = sa.create_engine(url)
    Own.metadata.drop_all(engine)
    Own.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER SEQUENCE exactness_rows_id_seq CACHE 50"))
    engine.dispose()
    conninfo = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    count = Path(tempfile.gettempdir()) / f"exactness-{os.getpid()}"
    serving = sa.make_url(url).set(drivername=f"postgresql+{options.driver}")
    address = serving.render_as_string(hide_password=False)
    servers = [Server(address, order) for _ in range(2)]
    try:
        await asyncio.gather(*(each.start() for each in servers))
        clients = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.exactness", "--count", str(count),
            "--follow", ",".join(str(each.port) for each in servers),
            "--streams", str(options.streams), "--seed", str(options.seed),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            limit=1 << 28,
        )  # fmt: skip
        assert clients.stdout is not None
        await clients.stdout.readline()
        dice, written, restarts = random.Random(options.seed), Written(), list[float]()
        began = time.monotonic()
        work = [write(conninfo, n, dice, written, options.rows) for n in range(options.writers)]
        if options.kills:
            work.append(kill(servers, options.kills, written, options.rows))
        if options.restarts and server is not None:
            work.append(restart(server, options.restarts, written, options.rows, restarts))
        else:
            work.append(long_one(conninfo, written, options.long))
        await asyncio.gather(*work)
        seconds = time.monotonic() - began
        # After a restart the database alone knows which of the last commits it has kept.
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            found = await connection.execute("SELECT id FROM exactness_rows")
            stored = {row[0] for row in await found.fetchall()}
        count.write_text(str(len(stored)))
        out, _ = await clients.communicate(b"")
    finally:
        count.unlink(missing_ok=True)
        for each in servers:
            await each.end()
    answers = json.loads(out)
    return {
        "order": order,
        "seconds": round(seconds, 1),
        **judged(stored, written, answers),
        **({"recovery_ms": [recovery(at, answers) for at in restarts]} if restarts else {}),
    }


async def kill(servers: Sequence[Server], times: int, written: Written, rows: int) -> None:
    for number in range(times):
        while len(written.rows) < (number + 1) * rows // (times + 1):
            await asyncio.sleep(0.01)
        server = servers[number % len(servers)]
        await server.end(signal.SIGKILL)
        await server.start()


async def restart(
    server: Postgres, times: int, written: Written, rows: int, restarts: list[float]
) -> None:
    for number in range(times):
        while len(written.rows) < (number + 1) * rows // (times + 1):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        await asyncio.to_thread(server.start)
        restarts.append(time.time())


def recovery(at: float, answers: Sequence[dict[str, Any]]) -> str:
    """Milliseconds from then to a stream's next row: at the median stream, and the last."""
    first = sorted(
        min((came for _, came, _ in answer["times"] if came > at), default=at) for answer in answers
    )
    return f"{1000 * (first[len(first) // 2] - at):.0f}/{1000 * (first[-1] - at):.0f}"


def judged(stored: set[int], written: Written, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lost = repeated = breaches = 0
    delays: list[float] = []
    for answer in answers:
        told = answer["told"]
        lost += len(stored - set(told))
        repeated += len(told) - len(set(told))
        breaches += sum(1 for _ in breaking(told, written))
        for numbers, at, since in answer["times"]:
            delays += [
                1000 * (at - written.ended[work])
                for work in map(written.rows.get, numbers)
                if work is not None and work != written.long and since < written.ended[work]
            ]
    return {
        "rows": len(stored),
        "streams": len(answers),
        "lost": lost,
        "repeated": repeated,
        "resets": sum(answer["resets"] for answer in answers),
        "orders": len({tuple(answer["told"]) for answer in answers}),
        "breaches": breaches,
        "resumed": sum(answer["resumed"] for answer in answers),
        "broken": sum(answer["broken"] for answer in answers),
        "longest_id": max(answer["longest_id"] for answer in answers),
        "p50_ms": round(statistics.median(delays), 1),
        "p99_ms": round(statistics.quantiles(delays, n=100)[98], 1),
    }


def breaking(told: Sequence[int], written: Written) -> Iterator[int]:
    """Rows whose transaction had ended before that of an earlier row of the stream began."""
    latest = 0.0
    for number in told:
        work = written.rows.get(number)
        if work is None:
            continue
        if written.ended[work] < latest:
            yield number
        latest = max(latest, written.began[work])


@contextmanager
def database(url: str | None) -> Iterator[tuple[str, Postgres | None]]:
    if url is not None:
        yield url, None
        return
    server = Postgres(fsync="on")
    try:
        server.create()
        server.start()
        yield server.url("postgres"), server
    finally:
        server.remove()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Is each row told once?")
    parser.add_argument("--url", help="an empty database, instead of a server of its own")
    parser.add_argument("--order", choices=["prompt", "total"], help="both if not given")
    parser.add_argument(
        "--driver", choices=["psycopg", "asyncpg"], default="psycopg", help="of the servers' engine"
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--writers", type=int, default=10)
    parser.add_argument("--long", type=float, default=5.0, help="seconds of the long transaction")
    parser.add_argument("--kills", type=int, default=0, help="of a serving process")
    parser.add_argument("--restarts", type=int, default=0, help="of PostgreSQL")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.follow:
        ports = [int(port) for port in options.follow.split(",")]
        asyncio.run(follow(ports, options.streams, options.seed, options.count))
        return 0
    print(described())
    failed = False
    with database(options.url) as (url, server):
        for order in [options.order] if options.order else ["prompt", "total"]:
            result = asyncio.run(run(url, order, options, server))
            print(" ".join(f"{name}={value}" for name, value in result.items()), flush=True)
            failed |= bool(result["lost"] or result["repeated"] or result["breaches"])
            failed |= order == "total" and result["orders"] != 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
