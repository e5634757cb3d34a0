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
import itertools
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from headwater.delivery.feed_stream import FeedStream, open_feed  # noqa: E402
from headwater.delivery.hub import Hub  # noqa: E402
from headwater.errors import SourceUnavailableError  # noqa: E402
from headwater.feeds.feed import Feed  # noqa: E402
from headwater.sql import Table, track  # noqa: E402
from support.postgres import Postgres  # noqa: E402
from support.streams import MemorySender  # noqa: E402

_EVENT = re.compile(rb"event: (snapshot|row)\nid: ([^\n]+)\ndata: ([^\n]*)\n\n")
_ID = re.compile(rb'"id":(\d+)')

FEED = Feed("rows", collection="rows", event="row")


class Own(DeclarativeBase):
    pass


@track()
class Item(Own):
    __tablename__ = "exactness_rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    writer: Mapped[int]


class Sender(MemorySender):
    """Tells its client when bytes have come."""

    def __init__(self, arrived: asyncio.Event) -> None:
        super().__init__()
        self._arrived = arrived

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.data += data
            self._arrived.set()


class Client:
    """A stream's client. It reads just what it has to, so that fifty of them cost little."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.last: str | None = None
        self.resets = 0
        self._sender: Sender | None = None
        self._stream: FeedStream | None = None

    async def connect(self, hub: Hub, table: Table, arrived: asyncio.Event) -> None:
        self._sender = Sender(arrived)
        async with hub.channel(FEED, table.where()) as channel:
            opening = await open_feed(channel, limit=100, resume=self.last)
            self._stream = FeedStream(self._sender, hub.streams, channel, limit=100, heartbeat=None)
            self._stream.begin(opening)
        self.read()

    def read(self, most: int | None = None) -> None:
        """Take in what has come; only the first ``most`` events if the client then leaves."""
        assert self._sender is not None
        data, self._sender.data = self._sender.data, b""
        self.resets += data.count(b"event: reset")
        for found in itertools.islice(_EVENT.finditer(data), most):
            self.last = found[2].decode()
            self.told += map(int, _ID.findall(found[3]))

    def leave(self, most: int | None) -> None:
        self.read(most)
        assert self._sender is not None
        assert self._stream is not None
        self._sender.gone()
        self._stream.close()


# One process of readers


async def read(url: str, order: str, streams: int, seed: int) -> None:
    """Follow until standard input ends; then say what each stream was told."""
    dice = random.Random(seed)
    engine = create_async_engine(url)
    hubs = [Hub() for _ in range(2)]
    tables = [Table(engine, Item, order=order) for _ in hubs]  # type: ignore[arg-type]
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, lambda: sys.stdin.readline() == "" and ended.set())
    found = [Reader(dice) for _ in range(streams)]
    running = [loop.create_task(each.live(hubs, tables)) for each in found]
    # Before the first row: a snapshot shows the newest hundred alone.
    await asyncio.gather(*(each.opened.wait() for each in found))
    print("ready", flush=True)
    await ended.wait()
    wanted = int(os.environ["EXACTNESS_FILE"] and Path(os.environ["EXACTNESS_FILE"]).read_text())
    for each in found:
        each.last_round = wanted
    # A stream that was told less by then has lost something.
    await asyncio.wait(running, timeout=60)
    for task in running:
        task.cancel()
    json.dump(
        [
            {"told": each.client.told, "times": each.times, "resets": each.client.resets}
            for each in found
        ],
        sys.stdout,
    )
    for hub in hubs:
        await hub.close()
    await engine.dispose()


class Reader:
    """One stream and all its connections."""

    def __init__(self, dice: random.Random) -> None:
        self.client = Client()
        self.times: list[tuple[int, float, float]] = []
        self.last_round: int | None = None
        self.opened = asyncio.Event()
        self._dice = dice

    async def live(self, hubs: Sequence[Hub], tables: Sequence[Table]) -> None:
        while self.last_round is None or len(self.client.told) < self.last_round:
            which = self._dice.randrange(len(hubs))
            with suppress(SourceUnavailableError):
                await self._connection(hubs[which], tables[which])
                continue
            await asyncio.sleep(0.05)

    async def _connection(self, hub: Hub, table: Table) -> None:
        client, dice, arrived = self.client, self._dice, asyncio.Event()
        before = len(client.told)
        await client.connect(hub, table, arrived)
        self.opened.set()
        since = time.time()
        self._note(before, since)
        events, patience = dice.randrange(1, 2000), time.monotonic() + dice.uniform(0.5, 10)
        while len(client.told) - before < events and time.monotonic() < patience:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await arrived.wait()
            arrived.clear()
            known = len(client.told)
            client.read()
            self._note(known, since)
            if self.last_round is not None and len(client.told) >= self.last_round:
                break
        client.leave(most=dice.choice([None, 0, 1]))

    def _note(self, known: int, since: float) -> None:
        now = time.time()
        self.times += [(number, now, since) for number in self.client.told[known:]]


# The writers


@dataclass
class Written:
    """What was committed: for each row its transaction, with when that began and ended."""

    rows: dict[int, int] = field(default_factory=dict)
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    long: int = -1


async def write(
    conninfo: str, writer: int, dice: random.Random, written: Written, rows: int
) -> None:
    while len(written.rows) < rows:
        try:
            async with await psycopg.AsyncConnection.connect(conninfo) as connection:
                while len(written.rows) < rows:
                    await transaction(connection, writer, dice, written)
        except psycopg.OperationalError:
            await asyncio.sleep(0.02)


async def transaction(
    connection: psycopg.AsyncConnection[Any], writer: int, dice: random.Random, written: Written
) -> None:
    insert = "INSERT INTO exactness_rows (writer) VALUES (%s) RETURNING id"
    await asyncio.sleep(dice.uniform(0, 0.05))
    began, own = time.time(), []
    for _ in range(dice.randint(1, 5)):
        if dice.random() < 0.2:
            await connection.execute("SAVEPOINT one")
            await connection.execute(insert, (writer,))
            await connection.execute("ROLLBACK TO one")
        row = await (await connection.execute(insert, (writer,))).fetchone()
        assert row is not None
        own.append(row[0])
        if dice.random() < 0.3:
            await asyncio.sleep(dice.uniform(0, 0.02))
    if dice.random() < 0.1:
        await connection.rollback()
        return
    await connection.commit()
    note(written, own, began)


def note(written: Written, own: Sequence[int], began: float) -> None:
    number = len(written.began)
    written.began.append(began)
    written.ended.append(time.time())
    written.rows.update(dict.fromkeys(own, number))


async def long_one(conninfo: str, written: Written, seconds: float) -> None:
    async with await psycopg.AsyncConnection.connect(conninfo) as connection:
        began = time.time()
        found = await connection.execute(
            "INSERT INTO exactness_rows (writer) VALUES (-1), (-1) RETURNING id"
        )
        own = [row[0] for row in await found.fetchall()]
        await asyncio.sleep(seconds)
        await connection.commit()
        written.long = len(written.began)
        note(written, own, began)


# The whole


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
    count = Path(os.environ.get("TMPDIR", "/tmp")) / f"exactness-{os.getpid()}"
    environment = {**os.environ, "EXACTNESS_FILE": str(count)}
    half = options.streams // 2
    readers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.exactness", "--read", url, "--order", order,
            "--streams", str(half), "--seed", str(options.seed + number),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment,
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
    options = parser.parse_args(arguments)
    if options.read:
        asyncio.run(read(options.read, options.order, options.streams, options.seed))
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
