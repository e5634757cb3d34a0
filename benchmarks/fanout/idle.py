"""Very many streams that are open and quiet: what they hold, and what their heartbeats cost."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.fanout import machine
from benchmarks.fanout.load import Load
from benchmarks.fanout.measure import FailedError, Figures, Plan, Row, say
from benchmarks.fanout.ours import Headwater

# Streams of one load generator: a process may have 20,000 files.
_EACH = 19_000


def idle(workers: int) -> Callable[[Plan, int], list[Row]]:
    """A measurement with so many processes that serve; ``plan.seconds`` is how long it looks."""

    def measure(plan: Plan, rounds: int) -> list[Row]:
        row = Row("Headwater" if workers == 1 else f"Headwater, {workers} workers")
        for number in range(rounds):
            say(f"  round {number + 1} of {rounds}")
            try:
                row.rounds.append(_held(plan, workers))
            except FailedError as error:
                row.why_not = str(error)
                break
        return [row]

    return measure


def _held(plan: Plan, workers: int) -> Figures:
    server = Headwater(workers=workers)
    loads = [Load(source) for source in range(-(-plan.streams // _EACH))]
    try:
        server.start()
        machine.settle(server.pids)
        # Every worker has followed the table once before it is looked at.
        for load in loads:
            server.aim(load, 1)
            load.open(50 * workers)
            load.close()
        machine.settle(server.pids)
        pids = server.pids
        held, used = machine.memory(pids), machine.cpu_seconds(pids)
        began, left = time.monotonic(), plan.streams
        for load in loads:
            many = min(left, _EACH)
            found = load.open(many, in_flight=64, limit=120.0)
            if found["live"] < many:
                raise FailedError(f"{found['failed']} of {many} streams did not open")
            left -= many
        opening = time.monotonic() - began
        opened = machine.cpu_seconds(pids) - used
        machine.settle(pids)
        grown = machine.memory(pids) - held
        used, began = machine.cpu_seconds(pids), time.monotonic()
        time.sleep(plan.seconds)
        used = machine.cpu_seconds(pids) - used
        live = sum(load.drain(quiet=0.2).live for load in loads)
        return {
            "open": live,
            "seconds": opening,
            "cpu_per_connect": opened / plan.streams * 1e6,
            "memory": machine.memory(pids) / 1024**2,
            "rss_per_stream": grown / plan.streams / 1024,
            "cpu_per_minute": used / (time.monotonic() - began) * 60,
        }
    finally:
        for load in loads:
            load.stop()
        server.stop()
