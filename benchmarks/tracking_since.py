"""What writers pay for the tracking of a keyed table, before and since canonical keys.

    uv run python -m benchmarks.tracking_since
    uv run python -m benchmarks.tracking_since --commit cf9ba9e --rounds 5

Takes Headwater of an earlier commit out of Git, and measures it and this one in turn, in one run:

- rows per second that one connection inserts, updates and deletes in a keyed table with a filter,
  one row in each statement and 100 statements in each transaction, on SQLite (``sqlite3``) and
  PostgreSQL (psycopg, a server from the wheel in the temporary folder, with ``fsync`` off). The
  best of the rounds;
- statements per second of a process on PostgreSQL that follows one table, and ten tables, while
  nobody writes: it looks for commits that no notification reports, and for drift.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

ROOT = Path(__file__).resolve().parents[1]
# Before keys had a canonical form, and before drift was looked for.
BEFORE = "cf9ba9e"


# How many tables are followed while nobody writes.
FOLLOWED = (1, 10)


def table(metadata: sa.MetaData, name: str = "notes") -> sa.Table:
    from headwater.sql import track_table

    columns = [
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.Integer),
        sa.Column("message", sa.Text),
    ]
    made = sa.Table(name, metadata, *columns)
    track_table(made, keyed=True, filters=("user_id",))
    return made


def measure(url: str, rows: int, idle: float) -> dict[str, float]:
    """Runs in a process of its own, with one of the two Headwaters."""
    metadata, engine = sa.MetaData(), sa.create_engine(url)
    tables = [table(metadata), *(table(metadata, f"notes_{n}") for n in range(1, max(FOLLOWED)))]
    metadata.drop_all(engine)
    metadata.create_all(engine)
    engine.dispose()
    connection: Any
    if url.startswith("sqlite"):
        connection, mark = sqlite3.connect(sa.make_url(url).database or ""), "?"
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    else:
        plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        connection, mark = psycopg.connect(plain), "%s"
    insert = f"INSERT INTO notes (id, user_id, message) VALUES ({mark}, {mark}, 'a message')"
    update = f"UPDATE notes SET user_id = user_id + 1 WHERE id = {mark}"
    delete = f"DELETE FROM notes WHERE id = {mark}"
    found = {
        "insert": timed(connection, rows, lambda key: connection.execute(insert, (key, key % 50))),
        "update": timed(connection, rows, lambda key: connection.execute(update, (key,))),
        "delete": timed(connection, rows, lambda key: connection.execute(delete, (key,))),
    }
    connection.close()
    if idle and not url.startswith("sqlite"):
        for count in FOLLOWED:
            found[f"idle {count}"] = asyncio.run(statements(url, tables[:count], idle))
    return found


def timed(connection: Any, rows: int, write: Callable[[int], object]) -> float:
    began = time.perf_counter()
    for key in range(rows):
        write(key)
        if key % 100 == 99:
            connection.commit()
    connection.commit()
    return rows / (time.perf_counter() - began)


async def statements(url: str, tables: Sequence[sa.Table], seconds: float) -> float:
    """Statements per second of a process that follows the tables while nobody writes."""
    from headwater import Hub
    from headwater.sql import Table

    engine, hub, count = create_async_engine(url), Hub(), 0

    @sa.event.listens_for(engine.sync_engine, "before_cursor_execute")
    def counted(*_: object) -> None:
        nonlocal count
        count += 1

    for each in tables:
        await hub.subscribe(Table(engine, each).where(), lambda _: None)
    await asyncio.sleep(5.0)  # it polls often until it finds nothing
    count = 0
    await asyncio.sleep(seconds)
    found = count / seconds
    await hub.close()
    await engine.dispose()
    return found


def measured(source: Path, url: str, options: argparse.Namespace, turn: int) -> dict[str, float]:
    # Idle statements are the same in each turn.
    idle = 0.0 if turn else options.idle
    rest = ["--child", url, "--rows", str(options.rows), "--idle", str(idle)]
    done = subprocess.run(
        [sys.executable, __file__, *rest],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What writers pay, before and since.")
    parser.add_argument("--commit", default=BEFORE, help="to compare with")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds without a write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measure(options.child, options.rows, options.idle)))
        return 0
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from benchmarks.fanout.machine import described

    from support.postgres import Postgres

    print(described())
    packed = subprocess.run(
        ["git", "archive", options.commit, "src"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        sources = {options.commit: Path(folder) / "src", "this": ROOT / "src"}
        server = Postgres()
        try:
            server.create()
            server.start()
            for database in ("sqlite", "postgresql"):
                best: dict[str, dict[str, float]] = {name: {} for name in sources}
                for turn in range(options.rounds):
                    for name, source in sources.items():
                        at = f"sqlite:///{folder}/{name}.db"
                        url = at if database == "sqlite" else server.url("postgres")
                        for what, figure in measured(source, url, options, turn).items():
                            best[name][what] = max(best[name].get(what, 0.0), figure)
                show(database, best)
        finally:
            server.remove()
    return 0


def show(database: str, best: dict[str, dict[str, float]]) -> None:
    print(f"{database:<26}" + "".join(f"{name:>12}" for name in best))
    for what in next(iter(best.values())):
        kind, _, count = what.partition(" ")
        name = f"statements/s, {count} idle" if kind == "idle" else f"{what}, rows/s"
        figures = [each[what] for each in best.values()]
        print(f"  {name:<24}" + "".join(f"{one:>12,.1f}" for one in figures), flush=True)


if __name__ == "__main__":
    sys.exit(main())
