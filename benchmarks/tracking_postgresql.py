"""What tracking costs writers on PostgreSQL, and how fast a client catches up.

    uv run python -m benchmarks.tracking_postgresql
    uv run python -m benchmarks.tracking_postgresql --seconds 3 --gap 10000

Starts a server from the wheel in the temporary folder (``TMPDIR``), with ``fsync`` on. Prints the
machine, then

- rows per second that ``pgbench`` inserts, one row in each transaction, with 1 and 16 connections,
  into the same table not tracked, tracked without NOTIFY, tracked with it (while nobody listens,
  and while one does), and keyed; and with 100 rows in each statement;
- items per second of a client that resumes after a gap, 500 at a time as streams do, with the
  memory that the process took for it, both orders; the rows are of transactions of 100;
- how long it took to add tracking to a table of a million rows, append-only, keyed and keyed with
  links, while four writers insert, update and delete: the longest of their writes, and the longest
  time for which one of them waited for the lock of the table. The rest of a long write is the disk,
  which builds of indexes keep busy.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.fanout.machine import described  # noqa: E402

from headwater.sql import Table, track  # noqa: E402
from headwater.sql.alembic import add_tracking  # noqa: E402
from headwater.sql.postgresql._place import SnapshotPlace  # noqa: E402
from headwater.sql.postgresql._snapshot import TransactionSnapshot  # noqa: E402
from support.postgres import Postgres, programs  # noqa: E402


class Own(DeclarativeBase):
    pass


class Columns:
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    user_id: Mapped[int]
    message: Mapped[str]


class Plain(Columns, Own):
    __tablename__ = "plain"


@track(notify=False)
class Silent(Columns, Own):
    __tablename__ = "silent"


@track()
class Told(Columns, Own):
    __tablename__ = "told"


@track(keyed=True, filters=("user_id",), notify=False)
class Keyed(Columns, Own):
    __tablename__ = "keyed"


def inserts(server: Postgres, table: str, connections: int, rows: int, seconds: int) -> float:
    """Rows per second."""
    script = (
        f"INSERT INTO {table} (user_id, message) "
        f"SELECT g, 'a message of some length' FROM generate_series(1, {rows}) g;\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        where = ["-h", str(server.folder), "-U", "postgres"]
        how = ["-n", "-T", str(seconds), "-c", str(connections), "-j", "2", "-f", file.name]
        done = subprocess.run(
            [programs() / "pgbench", *where, *how, "postgres"],
            capture_output=True,
            check=True,
            text=True,
        )
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    assert found is not None
    return rows * float(found[1])


WRITES = (
    "INSERT INTO big (user_id) VALUES (%(key)s)",
    "UPDATE big SET user_id = user_id + 1 WHERE id = %(key)s",
    "DELETE FROM big WHERE id = %(key)s",
)


def cost(server: Postgres, seconds: int) -> None:
    kinds = [
        ("not tracked", "plain", False),
        ("tracked, no NOTIFY", "silent", False),
        ("tracked, NOTIFY", "told", False),
        ("the same, one listens", "told", True),
        ("keyed, no NOTIFY", "keyed", False),
    ]
    print("rows/s                  1 writer   16 writers   1 writer, 100 rows each")
    for name, table, listens in kinds:
        listener = psycopg.connect(server.conninfo("postgres"), autocommit=True)
        if listens:
            listener.execute(f"LISTEN headwater_{table}")
        figures = [
            inserts(server, table, connections, rows, seconds)
            for connections, rows in ((1, 1), (16, 1), (1, 100))
        ]
        listener.close()
        print(
            f"{name:<22} {figures[0]:>9,.0f} {figures[1]:>12,.0f} {figures[2]:>13,.0f}", flush=True
        )


async def resume(server: Postgres, gap: int) -> None:
    engine = create_async_engine(server.url("postgres"))
    async with engine.begin() as connection:
        await connection.execute(sa.text("TRUNCATE silent RESTART IDENTITY"))
    start = (await Table(engine, Silent).where().page(1)).end
    async with await psycopg.AsyncConnection.connect(
        server.conninfo("postgres"), autocommit=True
    ) as connection:
        await connection.execute(
            "CREATE OR REPLACE PROCEDURE fill(total int) LANGUAGE plpgsql AS $$ BEGIN "
            "FOR n IN 1..total / 100 LOOP "
            "INSERT INTO silent (user_id, message) SELECT g, 'a message of some length' "
            "FROM generate_series(1, 100) g; COMMIT; END LOOP; END $$"
        )
        await connection.execute(f"CALL fill({gap})")
        await connection.execute("ANALYZE silent")
    for order in ("prompt", "total"):
        table = Table(engine, Silent, order=order)  # type: ignore[arg-type]
        await table.where().page(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, told, first = time.perf_counter(), 0, 0.0
        place = SnapshotPlace(TransactionSnapshot(start.snapshot.xmax))  # type: ignore[attr-defined]
        while True:
            page = await table.where().page(500, after=place)
            told += len(page.changes)
            first = first or time.perf_counter() - began
            place = page.end  # type: ignore[assignment]
            if not page.has_more:
                break
        seconds = time.perf_counter() - began
        memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert told == gap, (told, gap)
        print(
            f"resume after {gap:,} rows, {order}: {told / seconds:,.0f} items/s, the first 500 "
            f"after {1000 * first:.0f} ms, {memory:.0f} MB more memory",
            flush=True,
        )
    await engine.dispose()


# How the server logs the end of a wait.
WAITED = re.compile(r"acquired \w+ on relation \d+ of database \d+ after ([0-9.]+) ms")


def adding(server: Postgres, rows: int, what: str, **options: Any) -> None:
    engine = sa.create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    waits: list[float] = []
    done = threading.Event()

    def write(seed: int) -> None:
        chosen = random.Random(seed)
        logs = "-c log_lock_waits=on -c deadlock_timeout=10ms"
        conninfo = server.conninfo("postgres")
        with psycopg.connect(conninfo, autocommit=True, options=logs) as connection:
            while not done.is_set():
                key = chosen.randrange(1, rows)
                statement = chosen.choice(WRITES)
                began = time.perf_counter()
                connection.execute(statement, {"key": key})
                waits.append(time.perf_counter() - began)

    with engine.connect() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS big")
        connection.exec_driver_sql("CREATE TABLE big (id bigserial PRIMARY KEY, user_id int)")
        connection.exec_driver_sql(
            f"INSERT INTO big (user_id) SELECT g FROM generate_series(1, {rows}) g"
        )
        connection.exec_driver_sql("CHECKPOINT")
        log = server.folder / "log"
        start = log.stat().st_size
        writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
        for writer in writers:
            writer.start()
        began = time.perf_counter()
        add_tracking(connection, "big", **options)
        seconds = time.perf_counter() - began
        done.set()
        for writer in writers:
            writer.join()
    engine.dispose()
    locked = [float(found) for found in WAITED.findall(log.read_bytes()[start:].decode())]
    print(
        f"tracking ({what}) added to {rows:,} rows in {seconds:.1f} s; of {len(waits):,} writes "
        f"meanwhile the longest took {1000 * max(waits):.0f} ms, none failed; the longest wait for "
        f"the table's lock was {f'{max(locked):.0f} ms' if locked else 'below 10 ms'}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What tracking costs on PostgreSQL.")
    parser.add_argument("--seconds", type=int, default=5, help="of each figure; 0 for none")
    parser.add_argument(
        "--gap", type=int, action="append", help="10,000 and 1,000,000 if not given; 0 for none"
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="that tracking is added to")
    options = parser.parse_args(arguments)
    print(described())
    server = Postgres(fsync="on", max_wal_size="4GB", shared_buffers="256MB")
    try:
        server.create()
        server.start()
        engine = sa.create_engine(server.url("postgres"))
        Own.metadata.create_all(engine)
        engine.dispose()
        if options.seconds:
            cost(server, options.seconds)
        for gap in (10_000, 1_000_000) if options.gap is None else filter(None, options.gap):
            asyncio.run(resume(server, gap))
        keyed: dict[str, Any] = {"keyed": True, "filters": ["user_id"]}
        adding(server, options.rows, "append-only", indexes=[("user_id",)])
        adding(server, options.rows, "keyed", **keyed)
        adding(server, options.rows, "keyed, links", **keyed, links=["user_id"])
    finally:
        server.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
