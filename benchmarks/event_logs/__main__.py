"""Does each event arrive once? On each durable engine, while workers and the engine are killed.

    uv run python -m benchmarks.event_logs
    uv run python -m benchmarks.event_logs --engine nats --kills 20 --events 100000
    uv run python -m benchmarks.event_logs --events 1000 --streams 20 --topics 5 --kills 1

Starts each engine from its wheel in the temporary folder (``TMPDIR``), and ``headwater serve
--workers 2`` on it. Eight writers in this process append to the topics of satellites, one event or
twenty at a time, each append with a key; one that is not acknowledged is made again with the same
key. Streams of metrics, which resume with ``Last-Event-ID``, are spread over the topics. Workers
are killed (SIGKILL) in turn, each while events are written and once both serve again, and half-way
the engine's server is (SQLite has none). In the end what each stream received is compared with what
the log has.

Prints for each engine: events; those that the engine lost or doubled; those that were lost,
repeated or received in another order than the log's, over all streams; resets; how many connections
broke and were resumed; how many appends were made again; seconds from the first append until all
streams had received everything. Ends with 1 if anything was lost, doubled, repeated or in
disorder.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.event_logs.engines import DURABLE, engine
from benchmarks.event_logs.proof import Plan, prove
from benchmarks.fanout.machine import described
from running import Running
from serving import Server

_WRONG = ("lost by the engine", "doubled", "lost", "repeated", "out of order", "resets")


async def run(name: str, seeded: Server, plan: Plan) -> dict[str, Any]:
    """The figures of one engine."""
    with tempfile.TemporaryDirectory() as folder:
        async with engine(name, Path(folder), always=True) as made:
            server = Running(seeded.folder, Path(folder), workers=2, event_log=made.url)
            try:
                await asyncio.to_thread(server.start)
                return await prove(server, made, plan)
            finally:
                server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Does each event arrive once?")
    parser.add_argument("--engine", choices=DURABLE, action="append", help="all if not given")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--topics", type=int, default=50)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--kills", type=int, default=6, help="of a worker")
    parser.add_argument("--crashes", type=int, default=1, help="of the engine's server")
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args(arguments))
    engines = options.pop("engine") or DURABLE
    print(described())
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        seeded = Server(Path(folder))
        try:
            seeded.seed()
            seeded.stop()
            seeded.save()
            for name in engines:
                found = asyncio.run(run(name, seeded, Plan(**options)))
                shown = ", ".join(f"{figure} {what}" for what, figure in found.items())
                print(f"{name}: {shown}", flush=True)
                failed |= any(found[what] for what in _WRONG)
        finally:
            seeded.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
