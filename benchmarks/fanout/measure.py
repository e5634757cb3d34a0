"""One measurement of one server, and how measurements of several are interleaved."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.fanout import machine
from benchmarks.fanout.load import Fired, Load
from benchmarks.fanout.peers import Peer

Figures = dict[str, float]


class FailedError(Exception):
    """A server did not do what was asked: it is left out of this scenario."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is delivered.

    Attributes:
        streams, groups: open streams, spread evenly over so many feeds.
        shots: triggers at most, one after another.
        each: feeds that one trigger gives an event.
        burst: events that it gives each.
        every: seconds between triggers, or None: the next when all has arrived.
        seconds: no further trigger after this time.
        stalled: streams that stop reading.
    """

    streams: int
    groups: int = 1
    shots: int = 100
    each: int = 1
    burst: int = 1
    every: float | None = None
    seconds: float = 4.0
    stalled: int = 0


@dataclass(slots=True)
class Row:
    """What was found about one server: the median of the rounds for each figure."""

    peer: str
    about: str = ""
    rounds: list[Figures] = field(default_factory=list)
    why_not: str = ""

    def get(self, name: str) -> float | None:
        found = [figures[name] for figures in self.rounds if name in figures]
        return median(found) if found else None

    def total(self, name: str) -> float:
        return sum(figures.get(name, 0) for figures in self.rounds)


def opened(load: Load, peer: Peer, plan: Plan, *, in_flight: int = 64) -> Figures:
    """Open all streams: how fast, at what cost, and what they hold then."""
    pids = peer.pids
    held, used = machine.memory(pids), machine.cpu_seconds(pids)
    found = load.open(plan.streams, in_flight=in_flight, small=plan.stalled)
    if found["live"] < plan.streams:
        raise FailedError(f"{found['failed']} of {plan.streams} streams did not open")
    machine.settle(pids)
    return {
        "connects_per_s": plan.streams / found["seconds"],
        "cpu_per_connect": (machine.cpu_seconds(pids) - used) / plan.streams * 1e6,
        "rss_per_stream": (machine.memory(pids) - held) / plan.streams / 1024,
    }


def delivery(peer: Peer, plan: Plan) -> Figures:
    """What a delivery costs: streams are opened, warmed up, given events and closed again."""
    load = Load()
    try:
        peer.aim(load, plan.groups)
        figures = opened(load, peer, plan)
        fire(load, peer, plan, shots=min(3, plan.shots))
        figures |= fire(load, peer, plan)
        load.close()
    finally:
        load.stop()
    machine.settle(peer.pids)
    return figures


def fire(load: Load, peer: Peer, plan: Plan, *, shots: int | None = None) -> Figures:
    """Deliver once, over streams that are open."""
    base, made = peer.shots(
        shots or plan.shots,
        streams=plan.streams,
        groups=plan.groups,
        each=plan.each,
        burst=plan.burst,
    )
    pids = peer.pids
    used, began = machine.cpu_seconds(pids), time.monotonic()
    fired = load.fire(made, base=base, every=plan.every, limit=plan.seconds)
    used = machine.cpu_seconds(pids) - used
    return figures_of(fired, used, time.monotonic() - began)


def figures_of(fired: Fired, used: float, seconds: float) -> Figures:
    if not fired.delivered:
        raise FailedError("nothing was delivered")
    return {
        "cpu": used / fired.delivered * 1e6,
        "p50": fired.p50 / 1e3,
        "p99": fired.p99 / 1e3,
        "lost": fired.lost,
        "repeated": fired.repeated,
        "gone": fired.gaps,
        "refusals": fired.refusals,
        "delivered": fired.delivered,
        "deliveries_per_s": fired.delivered / fired.seconds,
        "server_busy": used / seconds,
        "client_busy": fired.worked / seconds,
    }


def interleaved(
    baseline: Peer,
    peers: Sequence[Peer],
    rounds: int,
    measure: Callable[[Peer], Figures],
    ratios: Iterable[str],
) -> list[Row]:
    """Measure all in turn, the baseline before and after each.

    A figure's ratio is to the mean of the baseline just before and just after, so what drifts on
    the machine cancels. Who fails is left out from then on.
    """
    rows = {peer: Row(peer.name, peer.about) for peer in (baseline, *peers)}
    for number in range(rounds):
        turn = [peer for peer in peers if not rows[peer].why_not]
        turn = turn[number % len(turn) :] + turn[: number % len(turn)] if turn else []
        before = measure(baseline)
        rows[baseline].rounds.append(before)
        for peer in turn:
            say(f"  round {number + 1} of {rounds}: {peer.name}")
            try:
                found = measure(peer)
            except FailedError as error:
                rows[peer].why_not = str(error)
                continue
            after = measure(baseline)
            rows[baseline].rounds.append(after)
            for name in ratios:
                between = (before[name] + after[name]) / 2
                if between:
                    found[f"{name}_ratio"] = found[name] / between
            rows[peer].rounds.append(found)
            before = after
    return list(rows.values())


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
