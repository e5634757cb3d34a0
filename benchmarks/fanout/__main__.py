"""Measure fan-out beside others on this machine.

    uv run python -m benchmarks.fanout                  # all, into docs/performance.md
    uv run python -m benchmarks.fanout --quick          # some minutes, to see that it works
    uv run python -m benchmarks.fanout one-1000 burst-16 --rounds 5
    uv run python -m benchmarks.fanout --list
    git worktree add ../before COMMIT
    uv run python -m benchmarks.fanout one-1000 --peers "row committed" --before ../before/src

It needs Linux and a C compiler. Peers that are not found are left out, and it says so: nginx with
nchan (Debian's libnginx-mod-nchan), node with npm, and those in Python, which are installed into a
cache folder. Everything runs on 127.0.0.0/8.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.fanout import machine, report
from benchmarks.fanout.load import built
from benchmarks.fanout.measure import Row, say
from benchmarks.fanout.scenarios import SCENARIOS, Scenario
from benchmarks.fanout.tools import HERE, MissingError

PAGE = HERE.parent.parent / "docs" / "performance.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fanout", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="which; all by default")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    parser.add_argument("--quick", action="store_true", help="few streams, one round")
    parser.add_argument("--rounds", type=int, default=None, help="of each measurement; 3")
    parser.add_argument("--peers", default="", help="parts of peers' names, with commas; all")
    parser.add_argument(
        "--before",
        type=Path,
        help="the folder src of another version, to be measured too",
    )
    parser.add_argument(
        "--priority", action="store_true", help="come before other programs; needs root"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        default=None,
        help="into docs/performance.md; by itself when all is measured at full size",
    )
    return parser.parse_args()


def chosen(names: list[str]) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"there is no scenario {', '.join(unknown)}; see --list")
    return [known[name] for name in names] or SCENARIOS


def written(found: list[tuple[Scenario, list[Row]]], load: float) -> None:
    """Put what was found into the page, with what a reader has to know about it."""
    about = {
        "command": shlex.join(["uv", "run", "python", "-m", "benchmarks.fanout", *sys.argv[1:]]),
        "machine": machine.description(),
        "load": f"load average {load:.1f} when it began",
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    report.insert(PAGE, report.section(found, about))
    PAGE.with_name(report.PLOT).write_text(report.plot(found))


def main() -> int:
    asked = arguments()
    if asked.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:18} {scenario.title}")
        return 0
    try:
        built()
    except MissingError as error:
        print(error, file=sys.stderr)
        return 1
    machine.raise_file_limit()
    machine.pin(machine.CLIENT_CORE)
    if asked.priority and not machine.raise_priority():
        say("the priority cannot be raised")
    parts = [part.strip().lower() for part in asked.peers.split(",")]
    found: list[tuple[Scenario, list[Row]]] = []
    load = os.getloadavg()[0]
    write = asked.write
    if write is None:
        write = not (asked.quick or asked.scenarios or asked.peers or asked.before)
    for scenario in chosen(asked.scenarios):
        this = scenario.quick() if asked.quick else scenario
        rounds = asked.rounds or (1 if asked.quick else 3)
        began = time.monotonic()
        say(f"{this.name}: {this.title}")
        rows = this.run(
            rounds, lambda name: any(part in name.lower() for part in parts), asked.before
        )
        found.append((this, rows))
        print("\n".join(["", f"### {this.title}", "", *report.table(this, rows), ""]))
        for row in rows:
            if row.why_not:
                print(f"left out: {row.peer}: {row.why_not}")
        if write:
            # After each one, so that a run that is broken off leaves what it has found.
            written(found, load)
        say(f"  {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
