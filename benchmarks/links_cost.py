"""What links cost the writers of the backend's own tables: rows per second before and after.

    uv run python -m benchmarks.links_cost

The backend's live queries over client activity, satellites and members need links of these tables.
Prints, for SQLite and PostgreSQL, the rows a second that one writer writes in transactions of
``--rows`` rows: with tracking alone, as before there were live queries, and with the links. The
best of ``--rounds`` rounds, in which both take turns. Of SQLite, which works in this process, the
rows per second of its CPU stand beside.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.fanout.machine import described  # noqa: E402

from headwater.backend.models import Base, ClientActivity, Satellite, Team, User  # noqa: E402
from headwater.backend.queries import clients_of, satellites_of, teams_of  # noqa: E402
from headwater.sql import configure_sqlite, postgresql_engine, sqlite_engine  # noqa: E402
from support.postgres import Postgres  # noqa: E402

Rates = dict[str, tuple[float, float]]


def required(model: Any, number: int) -> dict[str, Any]:
    """A row of a model: the columns that have no default."""
    row: dict[str, Any] = {}
    for column in model.__table__.columns:
        if column.nullable or column.server_default is not None or column.primary_key:
            continue
        if column.name.endswith("_id"):
            row[column.key] = "1"
        elif isinstance(column.type, sa.String) or column.type.python_type is str:
            row[column.key] = f"{column.key}{number}@x.example"
    return row


def measure(engine: sa.Engine, rows: int) -> Rates:
    """Rows per second, and per second of this process's CPU."""
    activity = ClientActivity.__table__
    first = {"id": "1"}
    with engine.begin() as connection:
        for model in (User, Team, Satellite):
            connection.execute(sa.insert(model).values(first | required(model, 1)))
    one = activity.c.id == sa.bindparam("one")
    each = [{"one": str(number)} for number in range(2, rows + 2)]
    cases: list[tuple[str, Any, list[dict[str, Any]]]] = [
        ("insert", sa.insert(activity), [
            {"id": str(n)} | required(ClientActivity, n) | {"client_name": f"c{n}"}
            for n in range(2, rows + 2)
        ]),
        ("update", sa.update(activity).where(one).values(requests=activity.c.requests + 1), each),
        ("delete", sa.delete(activity).where(one), each),
    ]  # fmt: skip
    found: Rates = {}
    for name, statement, given in cases:
        with engine.begin() as connection:
            began, cpu = time.perf_counter(), time.process_time()
            connection.execute(statement, given)
            took, cpu = time.perf_counter() - began, time.process_time() - cpu
        found[name] = rows / took, rows / cpu
    return found


def compare(urls: list[str], rows: int, rounds: int, *, sqlite: bool) -> None:
    """Both databases are made first: what is declared later changes no table."""
    engines = [sa.create_engine(url) for url in urls]
    if sqlite:
        engines = [configure_sqlite(engine) for engine in engines]
    best: list[Rates] = [{}, {}]
    for _ in range(rounds):
        for engine, rates in zip(engines, best, strict=True):
            with engine.begin() as connection:
                for table in ("client_activity", "satellites", "teams", "users"):
                    connection.exec_driver_sql(f"DELETE FROM {table}")
            for name, rate in measure(engine, rows).items():
                before = rates.get(name, (0.0, 0.0))
                rates[name] = max(before[0], rate[0]), max(before[1], rate[1])
    for name in best[0]:
        before, after = best[0][name], best[1][name]
        line = f"  {name:8} {before[0]:10,.0f} rows/s tracked, {after[0]:10,.0f} with links"
        more = f"; of CPU {before[1]:10,.0f}, {after[1]:10,.0f}" if sqlite else ""
        print(line + more, flush=True)
    for engine in engines:
        engine.dispose()


def make(url: str) -> None:
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    engine.dispose()


def main(asked: argparse.Namespace) -> None:
    print(described())
    postgres = Postgres(fsync="on")
    with tempfile.TemporaryDirectory() as folder:
        files = [f"sqlite:///{folder}/{name}.db" for name in ("tracked", "linked")]
        try:
            postgres.create()
            postgres.start()
            databases = [postgres.url(postgres.database()) for _ in range(2)]
            for urls in (files, databases):
                make(urls[0])
            reading = sqlite_engine(files[1]), postgresql_engine(databases[1])
            for engine in reading:
                for declare in (clients_of, teams_of, satellites_of):
                    declare(engine)
            for urls in (files, databases):
                make(urls[1])
            print("SQLite")
            compare(files, asked.rows, asked.rounds, sqlite=True)
            print("PostgreSQL")
            compare(databases, asked.rows, asked.rounds, sqlite=False)
        finally:
            postgres.remove()
    print(described())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args())
