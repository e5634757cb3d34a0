"""What is measured: each scenario by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.fanout import machine, special
from benchmarks.fanout.idle import idle as idle_streams
from benchmarks.fanout.load import Load
from benchmarks.fanout.measure import Figures, Plan, Row, delivery, interleaved, opened, say
from benchmarks.fanout.ours import Committed, Headwater, Metrics, Notified, Written
from benchmarks.fanout.peers import Baseline, Peer, others
from benchmarks.fanout.tools import MissingError

DELIVERY = {
    "cpu": "CPU per delivery, µs",
    "cpu_ratio": "ratio",
    "p50": "p50, ms",
    "p99": "p99, ms",
    "lost": "lost",
    "repeated": "repeated",
}

ALL = (Committed, Written, Headwater, Metrics)

IDLE = {
    "open": "open at the end",
    "seconds": "seconds until all are live",
    "cpu_per_connect": "CPU per connect, µs",
    "memory": "memory, MB",
    "rss_per_stream": "KB per stream",
    "cpu_per_minute": "CPU s per minute",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure.

    Attributes:
        title: what the table says about it.
        plan: how much.
        columns: the figures to show, with their headings.
        measure: measures one server.
        ratios: of which figures the ratio to the baseline is taken.
        alone: what is run instead, where peers are of no use.
        ours: which of our ways take part.
        note: what a reader has to know.
    """

    name: str
    title: str
    plan: Plan
    columns: dict[str, str] = field(default_factory=lambda: DELIVERY)
    measure: Callable[[Peer, Plan], Figures] = delivery
    ratios: tuple[str, ...] = ("cpu",)
    alone: Callable[[Plan, int], list[Row]] | None = None
    ours: tuple[type[Headwater], ...] = (Committed, Headwater, Metrics)
    note: str = ""

    def quick(self) -> Scenario:
        """The same in seconds: figures that say that it works, and no more."""
        plan = self.plan
        few = min(200, plan.streams // 50)
        streams = max(plan.groups if plan.groups <= 100 else 100, few)
        groups = min(plan.groups, streams)
        small = replace(
            plan,
            streams=streams // groups * groups,
            groups=groups,
            each=min(plan.each, groups),
            shots=min(plan.shots, 20),
            seconds=min(plan.seconds, 1.0),
        )
        return replace(self, title=f"{self.title} (quick: {small.streams} streams)", plan=small)

    def run(
        self, rounds: int, wanted: Callable[[str], bool], before: Path | None = None
    ) -> list[Row]:
        """All servers that are found, or those whose names are ``wanted``.

        Args:
            before: the folder ``src`` of another version of ours, to be measured too.
        """
        if self.alone is not None:
            return self.alone(self.plan, rounds)
        baseline = Baseline()
        running: list[Peer] = []
        missing: list[Row] = []
        peers: list[Peer] = []
        for kind in self.ours:
            peers.append(kind(self.plan.groups))
            if before is not None:
                peers.append(kind(self.plan.groups, source=before))
        peers += others()
        try:
            baseline.start()
            for peer in peers:
                if not wanted(peer.name):
                    continue
                if peer.most is not None and self.plan.streams > peer.most:
                    why = f"more than {peer.most:,} streams would take it minutes"
                    missing.append(Row(peer.name, why_not=why))
                    continue
                try:
                    peer.start()
                    running.append(peer)
                except MissingError as error:
                    say(f"  without {peer.name}: {error}")
                    missing.append(Row(peer.name, why_not=str(error)))
            rows = interleaved(
                baseline, running, rounds, lambda peer: self.measure(peer, self.plan), self.ratios
            )
            return rows + missing
        finally:
            for peer in (baseline, *peers):
                peer.stop()


def connecting(peer: Peer, plan: Plan) -> Figures:
    """How fast streams open, and what one holds while it is idle."""
    load = Load()
    try:
        peer.aim(load, plan.groups)
        figures = opened(load, peer, plan)
        load.close()
    finally:
        load.stop()
    machine.settle(peer.pids)
    return figures


def idle(peer: Peer, plan: Plan) -> Figures:
    """The same with a server that has just started: what was used before would be used again."""
    peer.end()
    peer.start()
    warm = replace(plan, streams=plan.groups if plan.groups > 1 else 100)
    connecting(peer, warm)
    return connecting(peer, plan)


SCENARIOS = [
    Scenario("one-1000", "1,000 streams, one event at a time", Plan(1000, shots=200), ours=ALL),
    Scenario("one-5000", "5,000 streams, one event at a time", Plan(5000, shots=60), ours=ALL),
    Scenario(
        "burst-16",
        "1,000 streams, 16 events at a time",
        Plan(1000, shots=40, burst=16),
        ours=ALL,
    ),
    Scenario(
        "rate-10000",
        "10,000 streams, 10 events/s",
        Plan(10_000, shots=40, every=0.1, seconds=5),
        columns=DELIVERY | {"p99_ratio": "p99 ratio"},
        ratios=("cpu", "p99"),
    ),
    Scenario(
        "connects",
        "2,000 streams opening, 64 at a time",
        Plan(2000),
        columns={"connects_per_s": "connects/s", "cpu_per_connect": "CPU per connect, µs"},
        measure=connecting,
        ratios=(),
        note="Ours with a session's look-up, permissions and a snapshot; the others have none.",
    ),
    Scenario(
        "idle-10000",
        "10,000 idle streams",
        Plan(10_000),
        columns={"rss_per_stream": "KB per stream", "connects_per_s": "connects/s"},
        measure=idle,
        ratios=(),
        note="Growth of the resident set of a server that had 100 streams before.",
    ),
    Scenario(
        "idle-19000",
        "19,000 idle streams in one process, with heartbeats",
        Plan(19_000, seconds=60),
        columns=IDLE,
        alone=idle_streams(1),
        ratios=(),
        note="A process may have 20,000 open files on this machine. Each stream has a heartbeat "
        "each 30 s and its rights are asked again as often.",
    ),
    Scenario(
        "idle-100000",
        "100,000 idle streams over eight workers, with heartbeats",
        Plan(100_000, seconds=60),
        columns=IDLE,
        alone=idle_streams(8),
        ratios=(),
    ),
    Scenario(
        "feeds-100x100",
        "100 feeds with 100 streams each; a trigger gives 10 feeds an event",
        Plan(10_000, groups=100, each=10, shots=100),
    ),
    Scenario(
        "filters-10000x1",
        "10,000 streams, each with a filter of its own; a trigger gives 1,000 of them an event",
        Plan(10_000, groups=10_000, each=1000, shots=40),
        ours=(Committed,),
    ),
    Scenario(
        "filters-10000-team",
        "10,000 streams, each with a filter of its own; each event is for all of them",
        Plan(10_000, groups=10_000, each=10_000, shots=60, seconds=8),
        ours=(Notified,),
        note="Each user follows what is for themselves or for one of their teams; all are in one.",
    ),
    Scenario(
        "stalled",
        "1 of 1,000 stops reading",
        Plan(1000, shots=160, burst=16, stalled=1, seconds=12),
        columns={
            "cpu_ratio": "CPU ratio",
            "p99": "others' p99, ms",
            "p99_before": "p99 with all reading, ms",
            "kernel": "KB in the kernel for it",
            "growth": "KB more in the process",
            "resumed": "it had later",
            "of": "of",
        },
        measure=special.stalled,
        note="The baseline drops what a client does not take.",
    ),
    Scenario(
        "restart",
        "5,000 streams open at once, then resume after a restart",
        Plan(5000, shots=20),
        columns={
            "seconds": "seconds until all are live",
            "per_s": "streams/s",
            "refused": "refused",
            "statements": "statements",
            "cpu": "CPU, s",
            "peak": "peak memory, MB",
            "lost": "lost",
            "repeated": "repeated",
        },
        alone=special.restart,
        ratios=(),
        note="Statements as SQLite traces them, without BEGIN, COMMIT and PRAGMA.",
    ),
    Scenario(
        "polls",
        "REST polls of 20 rows, 32 connections",
        Plan(32, shots=4000, seconds=4),
        columns={
            "polls_per_s": "polls/s",
            "cpu": "CPU per poll, µs",
            "not_modified": "answered 304, %",
        },
        alone=special.polls,
        ratios=(),
    ),
]
