"""Is each row of a table once in the log, and in order, while relays are killed?

    uv run python -m benchmarks.relay
    uv run python -m benchmarks.relay --database sqlite --engine sqlite
    uv run python -m benchmarks.relay --kills 0

Two processes run the same ``headwater relay`` from a table on PostgreSQL or SQLite into a log on
Valkey, NATS, PostgreSQL or SQLite; servers come from the wheels and keep their data in the
temporary folder (``TMPDIR``). Four writers commit transactions of 1 to 50 rows, some of which they
rolled back once. At random moments, ``--kills`` times, a relay is killed (SIGKILL) and started
again: two in three times the one that holds the relay, else one of both. With ``--kills 0`` all
rows are there before the relays start, so that their rate is what they can do.

Prints: rows, lost and repeated ones in the log, those that are out of order, kills, how often
another process became the holder, and rows per second from the first event to the last. In order
is: each writer's rows as it wrote them; and on SQLite, or with ``--order total``, all rows as the
database numbers them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.eventlog_servers import nats, valkey  # noqa: E402
from benchmarks.fanout.machine import described  # noqa: E402
from benchmarks.relay.tables import Database, PostgreSQL, SQLite, write  # noqa: E402

from headwater.eventlog import START, open_log  # noqa: E402
from support.postgres import Postgres  # noqa: E402

TOPIC = "rows"


class Relays:
    """Processes that run the same relay."""

    def __init__(self, command: Sequence[str], count: int, output: Path) -> None:
        self._command = command
        self._output = output.open("ab")
        self.processes = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=self._output, stderr=self._output, cwd=ROOT)

    def kill(self, at: int) -> None:
        """Kill one and start it again."""
        self.processes[at].kill()
        self.processes[at].wait()
        self.processes[at] = self._start()

    def end(self) -> list[int]:
        """Tell all to end; their exit codes."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(30) for process in self.processes]
        self._output.close()
        return codes


async def run(
    database: Database, log_url: str, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "headwater", "relay", "--database", database.url,
        "--table", "relay_rows", "--event-log", log_url, "--topic", TOPIC,
        "--order", options.order, "--lease", str(options.lease), "--batch", str(options.batch),
    ]  # fmt: skip
    each = options.rows // options.writers
    writing = [
        asyncio.to_thread(write, database, n, each, options.transaction, options.seed)
        for n in range(options.writers)
    ]
    if not options.kills:
        await asyncio.gather(*writing)
        writing = []
    relays = Relays(command, options.relays, folder / "relays.log")
    tasks = asyncio.gather(*writing)
    try:
        async with open_log(log_url) as log:
            told, kills, takeovers, rate = await watch(
                log, database, relays, each * options.writers, options
            )
        await tasks
    except BaseException:
        print((folder / "relays.log").read_text(), file=sys.stderr)
        raise
    finally:
        codes = relays.end()
    return {
        "rows": each * options.writers,
        **judged(database.rows(), told, exact=options.exact),
        "kills": kills,
        "takeovers": takeovers,
        "exit_codes": "/".join(map(str, codes)),
        "rows_per_s": round(rate),
    }


async def watch(
    log: Any, database: Database, relays: Relays, rows: int, options: argparse.Namespace
) -> tuple[list[int], int, int, float]:
    """Read the log until it has all rows and says nothing more, and kill relays meanwhile."""
    dice = random.Random(options.seed)
    moments = sorted(dice.randrange(rows) for _ in range(options.kills))
    told: list[int] = []
    after, holder, kills, takeovers = START, None, 0, 0
    first = last = quiet = time.monotonic()
    # What comes twice comes soon after; what is lost does not come for long.
    while quiet + (1.0 if len(told) >= rows else options.patience) > time.monotonic():
        records = (await log.read(TOPIC, after, 1000)).records
        if records:
            first = first if told else time.monotonic()
            last = quiet = time.monotonic()
            after = records[-1].offset
            told += [record.data["id"] for record in records]
        if kills < len(moments) and len(told) >= moments[kills]:
            pid = await asyncio.to_thread(database.holder)
            takeovers += pid is not None and pid != holder
            holder = pid or holder
            own = [process.pid for process in relays.processes]
            at = (
                own.index(pid) if pid in own and dice.random() < 2 / 3 else dice.randrange(len(own))
            )
            await asyncio.to_thread(relays.kill, at)
            kills += 1
        elif not records:
            await asyncio.sleep(0.01)
    return told, kills, takeovers, len(told) / max(last - first, 0.001)


def judged(
    stored: Sequence[tuple[int, int, int]], told: Sequence[int], *, exact: bool
) -> dict[str, int]:
    """What is wrong with the log; ``exact``: it is to have the order of the database."""
    by_id = {row[0]: row[1:] for row in stored}
    seen: set[int] = set()
    latest: dict[int, int] = {}
    place = {row[0]: at for at, row in enumerate(stored)}
    furthest = -1
    disordered = 0
    for one in told:
        if one in seen or one not in by_id:
            continue
        seen.add(one)
        writer, number = by_id[one]
        disordered += number < latest.get(writer, -1) or (exact and place[one] < furthest)
        latest[writer] = max(number, latest.get(writer, -1))
        furthest = max(furthest, place[one])
    return {
        "lost": len(by_id) - len(seen),
        "repeated": len(told) - len(seen),
        "out_of_order": disordered,
    }


@contextmanager
def servers(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Database, str]]:
    """The database and the log's address."""
    with ExitStack() as stack:
        postgres = None
        own = options.database == "postgresql" and not options.url
        if own or options.engine == "postgresql":
            postgres = Postgres(fsync="on")
            stack.callback(postgres.remove)
            postgres.create()
            postgres.start()
        address = None
        if options.engine == "redis":
            address = stack.enter_context(valkey(folder))
        elif options.engine == "nats":
            address = stack.enter_context(nats(folder))
        elif options.engine == "sqlite":
            address = f"sqlite:///{folder}/log.db"
        elif postgres is not None:
            address = f"postgresql://postgres@/{postgres.database()}?host={postgres.folder}"
        assert address is not None, f"the wheel with a server of {options.engine} is missing"
        if options.database == "sqlite":
            yield SQLite(folder / "table.db"), address
            return
        url = options.url if postgres is None or not own else postgres.url("postgres")
        with closing(PostgreSQL(url)) as database:
            yield database, address


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Is each row once in the log?")
    parser.add_argument("--database", choices=["postgresql", "sqlite"], default="postgresql")
    parser.add_argument(
        "--engine", choices=["redis", "nats", "postgresql", "sqlite"], default="redis"
    )
    parser.add_argument("--url", help="an empty PostgreSQL database for the table")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--relays", type=int, default=2)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--transaction", type=int, default=50, help="its rows, at most")
    parser.add_argument("--order", choices=["prompt", "total"], default="total")
    parser.add_argument("--lease", type=float, default=1.0)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--patience", type=float, default=30.0, help="seconds for what is missing")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args(arguments)
    options.exact = options.database == "sqlite" or options.order == "total"
    print(described())
    with (
        tempfile.TemporaryDirectory(prefix="headwater-relay-") as folder,
        servers(options, Path(folder)) as (database, address),
    ):
        result = asyncio.run(run(database, address, options, Path(folder)))
    shown = {"database": options.database, "engine": options.engine, "order": options.order}
    print(" ".join(f"{name}={value}" for name, value in (shown | result).items()), flush=True)
    wrong = result["lost"] or result["repeated"] or result["out_of_order"]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
