"""Is each row told once? Writers with random delays, clients that drop and resume at random.

    uv run python -m benchmarks.exactness
    uv run python -m benchmarks.exactness --rows 2000 --order prompt
    uv run python -m benchmarks.exactness --restarts 5

Starts a PostgreSQL server from the wheel in the temporary folder (``TMPDIR``), or uses the database
given with ``--url postgresql+psycopg://…``. Ten writers insert rows of a tracked table in
transactions of one to five rows that stay open for up to 100 ms, with savepoints, rollbacks and a
sequence that each session takes 50 numbers of; one further transaction is open for 5 s. Fifty
streams in two other processes, through the hub and on its own senders, leave after a random number
of events and resume from the last id at either process. With ``--restarts`` the server is killed
with SIGQUIT and started again so many times meanwhile.

Prints, for each order: rows, lost and repeated ones over all streams, how many different orders the
streams saw, breaches of "what committed before another transaction began comes first", and the
milliseconds from a commit's return to a stream that was open then, without those of the long
transaction. In total order that includes the wait for older transactions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
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

from benchmarks.exactness.model import Own  # noqa: E402
from benchmarks.exactness.readers import read  # noqa: E402
from benchmarks.exactness.writers import Written, long_one, write  # noqa: E402

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
    half = options.streams // 2
    readers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.exactness", "--read", url, "--order", order,
            "--streams", str(half), "--seed", str(options.seed + number), "--count", str(count),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            limit=1 << 28,
        )
        for number in range(2)
    ]  # fmt: skip
    for reader in readers:
        assert reader.stdout is not None
        await reader.stdout.readline()
    dice, written = random.Random(options.seed), Written()
    began = time.monotonic()
    writers = [
        asyncio.create_task(write(conninfo, number, dice, written, options.rows))
        for number in range(options.writers)
    ]
    if server is None or not options.restarts:
        writers.append(asyncio.create_task(long_one(conninfo, written, options.long)))
    else:
        writers.append(
            asyncio.create_task(restart(server, options.restarts, written, options.rows))
        )
    await asyncio.gather(*writers)
    seconds = time.monotonic() - began
    # After a restart the server alone knows which of the last commits it has kept.
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        found = await connection.execute("SELECT id FROM exactness_rows")
        stored = {row[0] for row in await found.fetchall()}
    count.write_text(str(len(stored)))
    outs = await asyncio.gather(*(reader.communicate(b"") for reader in readers))
    answers = [answer for out, _ in outs for answer in json.loads(out)]
    count.unlink()
    return {"order": order, "seconds": round(seconds, 1), **judged(stored, written, answers)}


async def restart(server: Postgres, times: int, written: Written, rows: int) -> None:
    for number in range(times):
        while len(written.rows) < (number + 1) * rows // (times + 1):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(server.stop, signal.SIGQUIT)
        await asyncio.to_thread(server.start)


def judged(stored: set[int], written: Written, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    lost = repeated = breaches = 0
    delays: list[float] = []
    for answer in answers:
        told = answer["told"]
        lost += len(stored - set(told))
        repeated += len(told) - len(set(told))
        breaches += sum(1 for _ in breaking(told, written))
        for number, at, since in answer["times"]:
            work = written.rows.get(number)
            if work is not None and work != written.long and since < written.ended[work]:
                delays.append(1000 * (at - written.ended[work]))
    return {
        "rows": len(stored),
        "streams": len(answers),
        "lost": lost,
        "repeated": repeated,
        "resets": sum(answer["resets"] for answer in answers),
        "orders": len({tuple(answer["told"]) for answer in answers}),
        "breaches": breaches,
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
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--writers", type=int, default=10)
    parser.add_argument("--long", type=float, default=5.0, help="seconds of the long transaction")
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        asyncio.run(read(options.read, options.order, options.streams, options.seed, options.count))
        return 0
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{platform.platform()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} CPUs, load {load}"
    )
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
