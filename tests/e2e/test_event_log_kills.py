"""Each event once and in order for each stream, while workers and the log's engine are killed.

The longest form is ``python -m benchmarks.event_logs``: 200 streams over 2 workers, 20,000 events.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from running import Running

from support.markdown import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.event_logs.engines import DURABLE, engine  # noqa: E402
from benchmarks.event_logs.proof import Plan, of_log, of_streams, prove  # noqa: E402
from benchmarks.event_logs.streams import Stream  # noqa: E402

pytestmark = pytest.mark.long


async def play(name: str, seeded: Path, folder: Path, plan: Plan) -> None:
    async with engine(name, folder, always=True) as made:
        server = Running(seeded, folder, workers=2, event_log=made.url)
        try:
            await asyncio.to_thread(server.start)
            found = await prove(server, made, plan)
        finally:
            await asyncio.to_thread(server.close)
    right = {
        "events": plan.events,
        "lost by the engine": 0,
        "doubled": 0,
        "lost": 0,
        "repeated": 0,
        "out of order": 0,
        "resets": 0,
    }
    assert {what: found[what] for what in right} == right
    assert found["broken"] and found["resumed"], "nobody's worker was killed"
    assert made.has_server == (name != "sqlite")


@pytest.mark.parametrize("name", ["sqlite"])
async def test_streams_of_killed_workers_have_each_event_once(
    name: str, seeded: Path, tmp_path: Path
):
    plan = Plan(events=300, topics=5, streams=20, kills=1)
    async with asyncio.timeout(100):
        await play(name, seeded, tmp_path, plan)


@pytest.mark.soak
@pytest.mark.parametrize("name", DURABLE)
async def test_for_long(name: str, seeded: Path, tmp_path: Path):
    plan = Plan(events=8_000, kills=5, crashes=1)
    async with asyncio.timeout(900):
        await play(name, seeded, tmp_path, plan)


def test_what_would_be_wrong_is_counted():
    """The proof would find a fault: one that was lost, told twice, or in another order."""
    kept = {"a": [0, 1, 3], "b": [2, 2, 5]}
    assert of_log(kept, 6) == {"lost by the engine": 1, "doubled": 1}
    streams = []
    for received in ([0, 1, 3], [0, 3], [1, 0, 3, 3]):
        streams.append(Stream(0, "a", ""))
        streams[-1].received = received
    found = of_streams(streams, {"a": [0, 1, 3]})
    assert (found["lost"], found["repeated"], found["out of order"]) == (1, 1, 1)
