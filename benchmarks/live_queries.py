"""What a live query costs: its reader, its streams and its writers, on SQLite and PostgreSQL.

    uv run python -m benchmarks.live_queries
    uv run python -m benchmarks.live_queries --orders 20000 --streams 1 100
    uv run python -m benchmarks.live_queries --databases postgresql --driver asyncpg

A shop of ``--orders`` orders, a tenth as many customers, of which one has a tenth of all orders,
and three lines for each order. The query joins orders with their customer and sums their lines.
Prints the machine, then for each database

- milliseconds from a commit to the changes in memory, by what was written, with the CPU of this
  process and of the PostgreSQL server, and the number of statements; the median of ``--rounds``;
- the same by running the whole query again;
- the same with many open streams of all tenants;
- milliseconds from the commit of a joined row to each of ``--latency`` streams, beside a plain
  ``Table``;
- microseconds a row that writers take, with tracking alone and with links.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ForeignKey, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.fanout.machine import described  # noqa: E402

from headwater.delivery._hub import Hub  # noqa: E402
from headwater.feeds._feed import Feed  # noqa: E402
from headwater.sql import LiveQuery, Table, sqlite_engine, track  # noqa: E402
from headwater.sql._reader import Head  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.streams import MemorySender, StreamClient  # noqa: E402

TENANTS = 100


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    name: Mapped[str]


@track(keyed=True)
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)


@track(keyed=True)
class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    total: Mapped[int]


@track(keyed=True)
class Plain(Base):
    """Tracked, without links."""

    __tablename__ = "plain"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(index=True)
    total: Mapped[int]


def query() -> Any:
    return (
        select(Order.id, Customer.tenant, Customer.name, func.sum(Line.total).label("total"))
        .join(Customer, Customer.id == Order.customer_id)
        .outerjoin(Line, Line.order_id == Order.id)
        .group_by(Order.id, Customer.id)
    )


async def fill(engine: AsyncEngine, orders: int) -> None:
    customers = orders // 10
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        rows = [{"id": n, "tenant": n % TENANTS, "name": f"c{n}"} for n in range(1, customers + 1)]
        await connection.execute(sa.insert(Customer), rows)
        # The first customer has a tenth of all orders.
        many = [
            {"id": n, "customer_id": 1 if n % 10 == 0 else 1 + n % customers}
            for n in range(1, orders + 1)
        ]
        await connection.execute(sa.insert(Order), many)
        lines = [{"id": n, "order_id": 1 + n % orders, "total": n % 90} for n in range(3 * orders)]
        await connection.execute(sa.insert(Line), lines)
        await connection.execute(sa.insert(Plain), lines)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text("ANALYZE"))


class Server:
    """What the processes of a PostgreSQL server use."""

    def __init__(self, data: Path) -> None:
        self._main = (data / "postmaster.pid").read_text().split("\n", 1)[0]
        self._tick = 1000 / os.sysconf("SC_CLK_TCK")

    def cpu(self) -> float:
        """Milliseconds so far, in steps of some ten."""
        found = 0.0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if self._main in (fields[1], path.parent.name):
                    found += int(fields[11]) + int(fields[12])
                if self._main == path.parent.name:
                    # Of those that have ended.
                    found += int(fields[13]) + int(fields[14])
        return found * self._tick


class Follower:
    """Reads what the tail reads, and counts its statements."""

    def __init__(self, engine: AsyncEngine, live: LiveQuery) -> None:
        self.live = live
        self.statements = 0
        self.place: Any = None
        event.listen(engine.sync_engine, "before_cursor_execute", self._count)

    def _count(self, *_: Any) -> None:
        self.statements += 1

    async def begin(self) -> None:
        head = await self.live.reader.head()
        self.epoch, self.place = head.epoch, head.place

    async def poll(self) -> int:
        found, more = 0, True
        while more:
            batch = await self.live.reader.batch(Head(self.epoch, self.place), 500)
            found, more, self.place = found + len(batch.changes), batch.has_more, batch.head
        return found


async def write(engine: AsyncEngine, statement: Any) -> None:
    async with engine.begin() as connection:
        await connection.execute(statement)


async def measured(
    name: str,
    rounds: int,
    before: Callable[[int], Awaitable[Any]],
    act: Callable[[], Awaitable[Any]],
    count: Callable[[], int],
    server: Server | None,
) -> None:
    times, cpus, changes, statements = [], [], 0, 0
    used = 0.0
    for number in range(rounds):
        await before(number)
        used -= server.cpu() if server else 0
        first, began, cpu = count(), time.perf_counter(), time.process_time()
        changes = await act()
        times.append(1000 * (time.perf_counter() - began))
        cpus.append(1000 * (time.process_time() - cpu))
        statements = count() - first
        used += server.cpu() if server else 0
    more = f"  {used / rounds:8.1f} ms CPU of the server" if server else ""
    print(
        f"  {name:44} {statistics.median(times):8.1f} ms  {statistics.median(cpus):8.1f} ms CPU"
        f"{more}  {statements:4} statements  {changes:6} changes",
        flush=True,
    )


async def reads(
    engine: AsyncEngine, live: LiveQuery, orders: int, rounds: int, server: Server | None
) -> None:
    follower = Follower(engine, live)
    await follower.begin()
    await follower.poll()

    async def nothing(_: int) -> None:
        pass

    async def on(statement: Any) -> None:
        await write(engine, statement)

    def line(number: int, **values: int) -> Any:
        return sa.update(Line).where(Line.id == 50 + number).values(**values)

    def customer(number: int, name: str) -> Any:
        return sa.update(Customer).where(Customer.id == number).values(name=name)

    new = 2 * orders
    cases: list[tuple[str, int, Callable[[int], Any]]] = [
        ("a line updated", rounds, lambda n: line(n, total=n)),
        ("a line moved", rounds, lambda n: line(n, order_id=orders - n)),
        ("an order inserted", rounds, lambda n: sa.insert(Order).values(id=new + n, customer_id=9)),
        ("an order deleted", rounds, lambda n: sa.delete(Order).where(Order.id == new + n)),
        ("a customer of 10 orders renamed", rounds, lambda n: customer(50 + n, f"x{n}")),
        (f"a customer of {orders // 10} orders renamed", 3, lambda n: customer(1, f"x{n}")),
    ]

    def statements() -> int:
        return follower.statements

    await measured("nothing changed", rounds, nothing, follower.poll, statements, server)
    for name, times, statement in cases:
        await measured(
            name,
            times,
            lambda n, statement=statement: on(statement(n)),
            follower.poll,
            statements,
            server,
        )

    async def again() -> int:
        async with engine.connect() as connection:
            return len((await connection.execute(query())).all())

    await measured("the whole query again", 3, nothing, again, statements, server)


async def streams(
    engine: AsyncEngine, live: LiveQuery, number: int, rounds: int, server: Server | None
) -> None:
    hub, feed = Hub(), Feed("orders", collection="orders", event="order")
    clients = [StreamClient(feed) for _ in range(number)]
    counted = Follower(engine, live)
    # Those of a tenant share what they begin with.
    for start in range(0, number, 2_500):
        some = list(enumerate(clients))[start : start + 2_500]
        await asyncio.gather(
            *(client.connect(hub, live.where(tenant=at % TENANTS)) for at, client in some)
        )
        for _, client in some:
            client.sender.take()

    async def seen() -> int:
        while not clients[0].sender.data:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return sum(len(client.sender.take()) for client in clients)

    async def before(n: int) -> None:
        # A customer of the first tenant, which has streams in any case.
        name = f"s{number}-{n}"
        await write(engine, sa.update(Customer).where(Customer.id == TENANTS).values(name=name))

    name = f"a customer of 10 orders renamed, {number} streams"
    await measured(name, rounds, before, seen, lambda: counted.statements, server)
    for client in clients:
        client.leave()
    await hub.close()


class TimedSender(MemorySender):
    """Notes when it was written to last."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def write(self, data: bytes) -> None:
        self.at = time.perf_counter()
        super().write(data)


async def latency(engine: AsyncEngine, live: LiveQuery, number: int, rounds: int) -> None:
    """From before a commit to the bytes at each of many streams: joined rows, and a plain one."""
    plain = Table(engine, Customer)
    for name, source in (("joined row", live.where(tenant=0)), ("plain table", plain.where())):
        hub, feed = Hub(), Feed("latency", collection="rows", event="row")
        clients = [StreamClient(feed) for _ in range(number)]
        senders: list[TimedSender] = []
        for client in clients:
            sender = TimedSender()
            senders.append(sender)
            client.make_sender = lambda sender=sender: sender
            await client.connect(hub, source)
        times: list[float] = []
        for n in range(rounds):
            for sender in senders:
                sender.take()
            began = time.perf_counter()
            changed = sa.update(Customer).where(Customer.id == TENANTS)
            await write(engine, changed.values(name=f"{name} {n}"))
            while not all(sender.data for sender in senders):
                await asyncio.sleep(0)
            await asyncio.sleep(0.02)
            times += [1000 * (sender.at - began) for sender in senders]
        cuts = statistics.quantiles(times, n=100)
        print(f"  {name:12} {number} streams: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms")
        for client in clients:
            client.leave()
        await hub.close()


async def writers(engine: AsyncEngine, rows: int) -> None:
    for model, name in ((Plain, "tracked"), (Line, "tracked, with links")):
        cases: list[tuple[str, Any]] = [
            ("insert", None),
            ("update", sa.update(model).where(model.id == sa.bindparam("one")).values(total=7)),
            ("update of a join column",
             sa.update(model).where(model.id == sa.bindparam("one")).values(order_id=8)),
            ("delete", sa.delete(model).where(model.id == sa.bindparam("one"))),
        ]  # fmt: skip
        for what, statement in cases:
            async with engine.begin() as connection:
                began, cpu = time.perf_counter(), time.process_time()
                if statement is None:
                    given = [
                        {"id": 10_000_000 + n, "order_id": 1 + n, "total": n} for n in range(rows)
                    ]
                    await connection.execute(sa.insert(model), given)
                else:
                    ones = [{"one": 10_000_000 + n} for n in range(rows)]
                    await connection.execute(statement, ones)
                took, cpu = time.perf_counter() - began, time.process_time() - cpu
            each = 1_000_000 / rows
            print(
                f"  {name:22} {what:26} {each * took:6.1f} us, {each * cpu:6.1f} us CPU here, a row"
            )


async def run(engine: AsyncEngine, asked: argparse.Namespace, server: Server | None = None) -> None:
    live = LiveQuery(engine, query(), key=["id"], where=["tenant"])
    await fill(engine, asked.orders)
    await reads(engine, live, asked.orders, asked.rounds, server)
    for number in asked.streams:
        await streams(engine, live, number, asked.rounds, server)
    await latency(engine, live, asked.latency, asked.rounds)
    await writers(engine, asked.rows)


async def main(asked: argparse.Namespace) -> None:
    print(described())
    if "sqlite" in asked.databases:
        await on_sqlite(asked)
    if "postgresql" in asked.databases:
        await on_postgresql(asked)
    print(described())


async def on_sqlite(asked: argparse.Namespace) -> None:
    print(f"SQLite, {asked.orders} orders")
    with tempfile.TemporaryDirectory() as folder:
        engine = sqlite_engine(f"sqlite:///{folder}/shop.db")
        await run(engine, asked)
        await engine.dispose()


async def on_postgresql(asked: argparse.Namespace) -> None:
    postgres = Postgres(fsync="on", autovacuum="on")
    try:
        postgres.create()
        postgres.start()
        print(f"PostgreSQL, {asked.orders} orders")
        url = sa.make_url(postgres.url(postgres.database()))
        engine = create_async_engine(url.set(drivername=f"postgresql+{asked.driver}"))
        await run(engine, asked, Server(postgres.data))
        await engine.dispose()
    finally:
        postgres.remove()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    every = ["sqlite", "postgresql"]
    parser.add_argument("--databases", nargs="+", choices=every, default=every)
    parser.add_argument("--driver", choices=["psycopg", "asyncpg"], default="psycopg")
    parser.add_argument("--orders", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--latency", type=int, default=1_000)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100, 10_000])
    asyncio.run(main(parser.parse_args()))
