"""Runs beside streams of npm's resumable-stream, on the same Valkey, in one run.

    uv run python -m benchmarks.runs_beside
    uv run python -m benchmarks.runs_beside --runs 500 --rate 20 --seconds 10 --rounds 3

Both do the same: one process produces ``--runs`` outputs of ``--rate`` deltas a second each, and
follows each of them once, over Valkey; each delta says when it was made. A round measures one after
the other. Node and npm are needed; the packages come from ``benchmarks/resumable_stream``.

Prints for each: milliseconds from a delta until its follower has it (median, 99th of 100), and
processor time for each delta, of the process and of Valkey. Of several rounds it is the median.

What they do with a delta differs. A run keeps it: it is in the log for whoever comes late, and
deltas of the same 50 ms are stored together. A resumable stream keeps it in the memory of its
producer, and publishes each by itself as long as anybody follows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.event_logs.engines import ROOT, Engine, engine
from benchmarks.fanout.machine import cpu_seconds, described, raise_priority
from benchmarks.runs import measure

FOLDER = ROOT / "benchmarks" / "resumable_stream"
NAMES = ("runs", "resumable-stream")

# Of one measurement: p50 and p99 in ms, processor of the process and of Valkey in us a delta.
Row = tuple[float, float, float, float]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    print(described())
    raise_priority()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measured(Path(folder), options))
    return 0


async def _measured(folder: Path, options: argparse.Namespace) -> None:
    await _npm_packages()
    found: dict[str, list[Row]] = {name: [] for name in NAMES}
    async with engine("redis", folder) as valkey:
        for _ in range(options.rounds):
            for name in NAMES:
                found[name].append(await _one(name, valkey, options))
    for name, rows in found.items():
        p50, p99, own, server = map(statistics.median, zip(*rows, strict=True))
        print(
            f"{name:16}  delay p50 {p50:6.1f} ms  p99 {p99:7.1f} ms  "
            f"processor a delta: {own:4.0f} us, Valkey {server:4.0f} us"
        )


async def _one(name: str, valkey: Engine, options: argparse.Namespace) -> Row:
    before = cpu_seconds(valkey.pids)
    if name == "runs":
        ours = await measure(valkey.url, options.runs, options.rate, options.seconds)
        figures = (ours.p50, ours.p99, ours.cpu)
    else:
        numbers = (options.runs, options.rate, options.seconds)
        said = await _said("node", "streams.mjs", valkey.url, *map(str, numbers))
        theirs = json.loads(said)
        figures = (theirs["p50"], theirs["p99"], theirs["cpu"])
    deltas = options.runs * int(options.rate * options.seconds)
    return *figures, (cpu_seconds(valkey.pids) - before) / deltas * 1e6


async def _npm_packages() -> None:
    if not (FOLDER / "node_modules").is_dir():
        await _said("npm", "ci")


async def _said(*words: str) -> bytes:
    """What a command prints. Ends this program if it fails."""
    process = await asyncio.create_subprocess_exec(
        *words, cwd=FOLDER, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed")
    return said


if __name__ == "__main__":
    sys.exit(main())
