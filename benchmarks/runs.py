"""What it costs to stream runs: appends, delay, and processor time for each delta.

    uv run python -m benchmarks.runs
    uv run python -m benchmarks.runs --engine postgresql --runs 500 --rate 20 --seconds 10

One process: producers, the log's client and one follower for each run. Each run gets ``--rate``
deltas a second for ``--seconds``; each delta says when it was made. Engines are started from their
wheels in the temporary folder (``TMPDIR``), with the durability that is their default.

Prints for each engine: appends to runs for each run and second, milliseconds from ``delta()`` until
the follower has it (median, 99th of 100), how much longer the producers took than their pace, and
the process's processor time for each delta. The first row, with one run, is the pace of a model:
100 tokens a second. Python's garbage collector has the thresholds that ``headwater serve`` sets;
with those of Python it takes a fifth of the processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.event_logs.engines import ENGINES, engine
from benchmarks.fanout.machine import described, raise_priority

from headwater.eventlog import open_log
from headwater.runs import Run, Runs


class Counted:
    """Counts the appends of events to runs."""

    def __init__(self, log: Any) -> None:
        self.count = 0
        append = log.append

        async def counted(topic: str, data: Any, **options: Any) -> Any:
            if ":r:" in topic and isinstance(data, list):
                self.count += 1
            return await append(topic, data, **options)

        log.append = counted


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured.

    Attributes:
        p50: milliseconds from a delta until the follower had it, the middle one; so is ``p99``.
        cpu: microseconds of this process for each delta.
        appends: to each run in a second.
        late: the part of their time by which the producers were behind their pace.
        took: seconds.
    """

    p50: float
    p99: float
    cpu: float
    appends: float
    late: float
    took: float


async def measure(url: str, runs: int, rate: float, seconds: float) -> Figures:
    gc.set_threshold(2_000, 10, 50)
    delays: list[float] = []
    late: list[float] = []
    deltas = int(rate * seconds)

    go, waiting = asyncio.Event(), asyncio.Semaphore(0)

    async def produce(run: Run) -> None:
        await go.wait()
        began = time.monotonic()
        for n in range(deltas):
            await asyncio.sleep(max(began + n / rate - time.monotonic(), 0))
            await run.delta(f"{time.monotonic():.6f} ")
        late.append(time.monotonic() - began - (deltas - 1) / rate)

    async def follow(made: Runs, run_id: str) -> int:
        count = 0
        async for events in (await made.reader(run_id)).events():
            if not events and not go.is_set():
                waiting.release()
            now = time.monotonic()
            for event in events:
                if event.name == "delta":
                    sent = [float(one) for one in event.data["text"].split()]
                    delays.extend(now - one for one in sent)
                    count += len(sent)
        return count

    async with open_log(url) as log, Runs(log) as made:
        counted = Counted(log)
        creating = (made.create("/a", f"user {n}", handler=produce) for n in range(runs))
        ids = [one.state.id for one in await asyncio.gather(*creating)]
        following = [asyncio.create_task(follow(made, run_id)) for run_id in ids]
        for _ in ids:
            await waiting.acquire()
        counted.count = 0
        used, began = time.process_time(), time.monotonic()
        go.set()
        counts = await asyncio.gather(*following)
        used, took = time.process_time() - used, time.monotonic() - began
    assert counts == [deltas] * runs, "a delta is missing"
    cuts = statistics.quantiles(delays, n=100)
    return Figures(
        p50=cuts[49] * 1000,
        p99=cuts[98] * 1000,
        cpu=used / sum(counts) * 1e6,
        appends=counted.count / runs / seconds,
        late=statistics.mean(late) / seconds,
        took=took,
    )


async def line(url: str, runs: int, rate: float, seconds: float) -> str:
    found = await measure(url, runs, rate, seconds)
    return (
        f"{runs:5} runs at {rate:g}/s  {found.appends:5.1f} appends/s each  "
        f"delay p50 {found.p50:6.1f} ms  p99 {found.p99:7.1f} ms  "
        f"producers {found.late:6.2%} late  "
        f"{found.cpu:6.0f} us of processor a delta  took {found.took:.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=[*ENGINES, "all"], default="all")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args(arguments)
    print(described())
    raise_priority()
    for name in ENGINES if options.engine == "all" else [options.engine]:
        print(name)
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(_on(name, Path(folder), options))
    return 0


async def _on(name: str, folder: Path, options: argparse.Namespace) -> None:
    async with engine(name, folder) as made:
        await _both(made.url, options)


async def _both(url: str, options: argparse.Namespace) -> None:
    print(" ", await line(url, 1, 100.0, options.seconds))
    print(" ", await line(url, options.runs, options.rate, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
