"""What tracking costs a writer on SQLite: rows per second without it and with it.

    uv run python benchmarks/tracking_cost.py

Each figure is the best of five runs on a new file (WAL, synchronous NORMAL) through plain
``sqlite3``: 20,000 rows of some 150 bytes, in transactions of 1 and of 100 rows. On a machine with
2 cores (AMD EPYC, Linux 6.18), Python 3.11.7, SQLite 3.40.1, one run of this command:

    rows/s                  not tracked  append-only        keyed
    insert, 1 per commit         16,248        6,455        5,745
    insert, 100 per commit       80,466       50,077       29,737
    update, 1 per commit         25,455       28,357        6,004
    update, 100 per commit      326,995      288,489       40,983
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa

from headwater.sql import track_table

ROWS = 20_000


def database(path: Path, *, keyed: bool | None) -> None:
    """A file with the table; ``keyed`` None: not tracked."""
    metadata = sa.MetaData()
    table = sa.Table(
        "t",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.Integer, index=True),
        sa.Column("name", sa.Text, unique=True),
        sa.Column("message", sa.Text),
    )
    if keyed is not None:
        track_table(table, keyed=keyed, filters=("user_id",) if keyed else ())
    engine = sa.create_engine(f"sqlite:///{path}")
    metadata.create_all(engine)
    engine.dispose()


def measure(keyed: bool | None, batch: int, *, update: bool) -> float:
    """Rows per second."""
    rows = ROWS if batch > 1 else ROWS // 5
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.db"
        database(path, keyed=keyed)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        values = [(n, n % 50, f"name {n}", "x" * 120) for n in range(rows)]
        insert = "INSERT INTO t (id, user_id, name, message) VALUES (?, ?, ?, ?)"
        if update:
            connection.execute("BEGIN")
            connection.executemany(insert, values)
            connection.execute("COMMIT")
        start = time.perf_counter()
        for at in range(0, rows, batch):
            connection.execute("BEGIN IMMEDIATE")
            if update:
                run = [("y" * 120, row[0]) for row in values[at : at + batch]]
                connection.executemany("UPDATE t SET message = ? WHERE id = ?", run)
            else:
                connection.executemany(insert, values[at : at + batch])
            connection.execute("COMMIT")
        spent = time.perf_counter() - start
        connection.close()
    return rows / spent


def main() -> None:
    print("rows/s                  not tracked  append-only        keyed")
    for update in (False, True):
        for batch in (1, 100):
            best = [
                max(measure(keyed, batch, update=update) for _ in range(5))
                for keyed in (None, False, True)
            ]
            what = f"{'update' if update else 'insert'}, {batch} per commit"
            print(f"{what:<22}" + "".join(f"{figure:>13,.0f}" for figure in best))


if __name__ == "__main__":
    main()
