"""One run: writers, streams at several workers, and what is killed meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.event_logs.engines import Engine
from benchmarks.event_logs.streams import Stream, following
from running import Running

from headwater.errors import SourceUnavailableError
from headwater.eventlog import START, EventLog, open_log

__all__ = ["Plan", "of_log", "of_streams", "prove", "satellites"]

_WRITERS = 8
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything.

    Attributes:
        kills: of a worker, each once both serve again.
        crashes: of the engine's server, half-way.
    """

    events: int = 20_000
    topics: int = 50
    streams: int = 200
    kills: int = 6
    crashes: int = 1
    seed: int = 1


def satellites(server: Running, count: int) -> list[str]:
    """New ones; each has a topic of its own."""
    return [server.post("/api/satellites", {"name": f"s-{n}"})["id"] for n in range(count)]


async def prove(server: Running, engine: Engine, plan: Plan) -> dict[str, Any]:
    """Run it on a server with workers that has started; the figures."""
    topics = await asyncio.to_thread(satellites, server, plan.topics)
    key = server.headers["Authorization"].removeprefix("Bearer ")
    streams = [Stream(server.port, topics[n % len(topics)], key) for n in range(plan.streams)]
    tasks = await following(streams)
    try:
        async with open_log(engine.url) as log:
            work = _Writing(log, topics, plan)
            began = time.monotonic()
            async with asyncio.TaskGroup() as group:
                group.create_task(_disturb(server, engine, plan, work))
                for number in range(_WRITERS):
                    group.create_task(work.write(random.Random(f"{plan.seed} {number}")))
            kept = {topic: await _everything(log, topic) for topic in topics}
        await _told(streams, kept)
        seconds = time.monotonic() - began
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return {
        "events": sum(map(len, kept.values())),
        "streams": len(streams),
        **of_log(kept, plan.events),
        **of_streams(streams, kept),
        "retried": work.retried,
        "seconds": round(seconds, 1),
    }


@dataclass(slots=True)
class _Writing:
    """Writers that share the events, and stop where the next thing is to be killed."""

    log: EventLog
    topics: Sequence[str]
    plan: Plan
    taken: int = 0
    written: int = 0
    retried: int = 0
    allowed: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def write(self, dice: random.Random) -> None:
        while self.taken < self.plan.events:
            size = min(dice.choice((1, 1, 1, 20)), self.plan.events - self.taken)
            first, self.taken = self.taken, self.taken + size
            async with self.moved:
                await self.moved.wait_for(lambda end=first + size: end <= self.allowed)  # type: ignore[misc]
            await self._append(dice.choice(self.topics), first, size)
            async with self.moved:
                self.written += size
                self.moved.notify_all()

    async def _append(self, topic: str, first: int, size: int) -> None:
        """Until it is acknowledged, with one key."""
        events = [
            {"cpu_percent": 1.0, "memory_mb": n, "requests_per_s": 0.0, "errors_per_s": 0.0}
            for n in range(first, first + size)
        ]
        while True:
            try:
                await self.log.append(f"satellite:{topic}", events, key=f"proof-{first}")
            except SourceUnavailableError:
                self.retried += 1
                await asyncio.sleep(0.05)
            else:
                return

    async def reached(self, count: int) -> None:
        async with self.moved:
            await self.moved.wait_for(lambda: self.written >= count)

    async def allow(self, count: int) -> None:
        async with self.moved:
            self.allowed = count
            self.moved.notify_all()


async def _disturb(server: Running, engine: Engine, plan: Plan, work: _Writing) -> None:
    """Kill in the middle of each part of the writing; the next part begins when all serve again."""
    faults = ["worker"] * plan.kills
    faults[plan.kills // 2 : plan.kills // 2] = ["engine"] * plan.crashes * engine.has_server
    part = plan.events / (len(faults) + 1)
    for number, fault in enumerate(faults):
        await work.allow(int(part * (number + 1)))
        await work.reached(int(part * (number + 0.5)))
        if fault == "engine":
            await engine.crash()
            continue
        started = _starts(server)
        # The one with more streams: all that it had go to another one, so they die in turn.
        os.kill(max(_workers(server), key=_open_files), signal.SIGKILL)
        async with asyncio.timeout(_PATIENCE):
            # After the last one the others are enough.
            while _starts(server) == started and number + 1 < len(faults):
                await asyncio.sleep(0.05)
    await work.allow(plan.events)


def _workers(server: Running) -> list[int]:
    """Their process ids."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _starts(server: Running) -> int:
    """How many workers said so far that they serve."""
    return server.said().count("Application startup complete")


async def _everything(log: EventLog, topic: str) -> list[int]:
    found: list[int] = []
    after = START
    while records := (await log.read(f"satellite:{topic}", after, 1000)).records:
        found += [int(record.data["memory_mb"]) for record in records]
        after = records[-1].offset
    return found


async def _told(streams: Sequence[Stream], kept: dict[str, list[int]]) -> None:
    """Wait until each stream has as many as there are; one that has fewer by then has lost some."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if all(len(each.received) >= len(kept[each.topic]) for each in streams):
            return
        await asyncio.sleep(0.05)


def of_log(kept: dict[str, list[int]], events: int) -> dict[str, int]:
    all_ = [number for found in kept.values() for number in found]
    return {
        "lost by the engine": len(set(range(events)) - set(all_)),
        "doubled": len(all_) - len(set(all_)),
    }


def of_streams(streams: Sequence[Stream], kept: dict[str, list[int]]) -> dict[str, int]:
    lost = repeated = disorder = 0
    for each in streams:
        place = {number: place for place, number in enumerate(kept[each.topic])}
        lost += len(place.keys() - set(each.received))
        repeated += len(each.received) - len(set(each.received))
        places = [place.get(number, -1) for number in dict.fromkeys(each.received)]
        disorder += sum(b < a for a, b in itertools.pairwise(places))
    return {
        "lost": lost,
        "repeated": repeated,
        "out of order": disorder,
        "resets": sum(each.resets for each in streams),
        "broken": sum(each.broken for each in streams),
        "resumed": sum(each.resumed for each in streams),
    }
