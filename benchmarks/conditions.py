"""What conditions of ``where()`` cost the tail of a table, by their number, on both databases.

    uv run python -m benchmarks.conditions
    uv run python -m benchmarks.conditions --filters 10 1000 --rows 100

Each of ``--filters`` subscriptions has a condition of its own, ``size > n``; a row makes one in a
hundred of them true. Prints the machine, then for each database and number the milliseconds from
the commit of one row, and of ``--rows`` in one transaction, to its delivery, with the CPU of this
process; the median of ``--rounds``. Beside it the same for as many equalities.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.fanout.machine import described  # noqa: E402

from headwater.delivery._hub import Hub  # noqa: E402
from headwater.sql import Table, sqlite_engine, track  # noqa: E402
from support.postgres import Postgres  # noqa: E402


class Base(DeclarativeBase):
    pass


@track()
class Log(Base):
    __tablename__ = "sized_logs"
    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]


async def measured(engine: AsyncEngine, sources: list[Any], rows: int, rounds: int) -> str:
    """The time and CPU of one row, and of several."""
    hub, done = Hub(), asyncio.Event()
    for source in sources:
        await hub.subscribe(source, lambda _: None)
    # It is told last, of every row.
    seen: list[Any] = []

    def take(changes: Any) -> None:
        seen.extend(changes)
        done.set()

    await hub.subscribe(sources[0].table.where(), take)
    found = []
    for number in (1, rows):
        times, cpu = [], []
        for _ in range(rounds):
            seen.clear()
            began, used = time.perf_counter(), time.process_time()
            async with engine.begin() as connection:
                values = [{"size": len(sources) // 100} for _ in range(number)]
                await connection.execute(sa.insert(Log), values)
            while len(seen) < number:
                done.clear()
                await done.wait()
            times.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
        found.append(f"{statistics.median(times) * 1e3:8.1f} ({statistics.median(cpu) * 1e3:.1f})")
    await hub.close()
    return " ".join(found)


async def run(engine: AsyncEngine, asked: argparse.Namespace) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    for number in asked.filters:
        table = Table(engine, Log)
        ranges = [table.where(Log.size > n) for n in range(number)]
        print(f"  {number:6} conditions {await measured(engine, ranges, asked.rows, asked.rounds)}")
        table = Table(engine, Log)
        equal = [table.where(size=n) for n in range(number)]
        print(f"  {number:6} equalities {await measured(engine, equal, asked.rows, asked.rounds)}")


async def main(asked: argparse.Namespace) -> None:
    print(described())
    print(f"ms (CPU) of 1 row, and of {asked.rows}")
    print("SQLite")
    with tempfile.TemporaryDirectory() as folder:
        engine = sqlite_engine(f"sqlite:///{folder}/logs.db")
        await run(engine, asked)
        await engine.dispose()
    postgres = Postgres(fsync="on", autovacuum="on")
    try:
        postgres.create()
        postgres.start()
        print("PostgreSQL")
        engine = create_async_engine(postgres.url(postgres.database()))
        await run(engine, asked)
        await engine.dispose()
    finally:
        postgres.remove()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--filters", type=int, nargs="+", default=[10, 1_000, 10_000])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=10)
    asyncio.run(main(parser.parse_args()))
