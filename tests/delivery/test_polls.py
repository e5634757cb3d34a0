"""Shared polls: what no client can see."""

from __future__ import annotations

import asyncio

from headwater.delivery._hub import Hub
from headwater.eventlog import MemoryLog


async def test_a_crowd_is_answered_in_turns_with_other_work():
    """With ten thousand that wait, one new item must not hold up everybody else's requests."""
    hub, log = Hub(), MemoryLog()
    source = log.topic("t")

    async def read() -> tuple[int, bool]:
        page = await source.page(10)
        return len(page.changes), bool(page.changes)

    joined = [hub.polls.join("t", source, read) for _ in range(500)]
    (shared,) = {one for one, _ in joined}
    turns: list[int] = []

    async def other() -> None:
        while not all(answer.done() for _, answer in joined):
            turns.append(sum(answer.done() for _, answer in joined))
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await log.append("t", [{"n": 1}, {"n": 2}])
    assert [await answer for _, answer in joined] == [2] * 500
    await task
    assert len(set(turns)) >= 10, "other work had no turn between the answers"
    # It is over: who joins now waits anew.
    assert hub.polls.join("t", source, read)[0] is not shared
    await hub.close()
