"""``kill -9`` while everybody writes and reads: nothing is lost, repeated or put in another order.

What was answered with 201 is there; what was not answered is there as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from running import Running
from scenario import LOG, METRICS, Feed, Scenario

from headwater.protocol import Message
from support.http import request


async def kill_and_start(scenario: Scenario, entries: int, kills: int) -> None:
    """Kill the server so many times while entries are written, and start it again."""
    server = scenario.server
    for number in range(kills):
        await scenario.pace.reached(entries * (number + 1) // (kills + 1))
        scenario.shore.down()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        scenario.shore.up()
        await scenario.pace.moved()


async def play(server: Running, feed: Feed, *, entries: int, kills: int, **options: int) -> None:
    scenario = Scenario(server, feed, entries=entries, **options)
    async with asyncio.TaskGroup() as both:
        both.create_task(scenario.play())
        both.create_task(kill_and_start(scenario, entries, kills))
    # Streams were cut. On a slow machine most are just between two connections at the time.
    assert sum(reader.broken for reader in scenario.streams) > 0
    assert server.complaints() == []


async def test_a_killed_server_costs_nobody_a_log_entry(running: Running):
    async with asyncio.timeout(90):
        await play(running, LOG, entries=1000, kills=1, streams=10, leaves=10)


@pytest.mark.long
@pytest.mark.soak
async def test_a_killed_server_costs_nobody_a_report(running: Running):
    async with asyncio.timeout(90):
        await play(running, METRICS, entries=400, kills=1, streams=10, leaves=10)


@pytest.mark.long
async def test_a_keyed_feed_ends_in_the_last_state_of_each_key(running: Running):
    """Counts that were moved while the client was away, across a kill."""
    names = ["editor", "terminal", "notebook", "chat"]
    rng = random.Random(7)
    path = f"/api/users/me/mcp/client-activity?team_id={running.team_id}&limit=100"
    rest, stream = path, path.replace("?", "/stream?")
    held: dict[str, Any] = {}
    last = ""

    def take(message: Message) -> None:
        nonlocal last
        told = json.loads(message.data)
        last = message.last_event_id
        if message.event == "snapshot":
            assert not held
            held.update({item["id"]: item for item in told["activities"]})
        elif message.event == "client_activity_removed":
            held.pop(told["id"])
        else:
            assert message.event == "client_activity"
            held[told["id"]] = told

    for step in range(8):
        for name in rng.choices(names, k=rng.randint(1, 5)) if step else names:
            await asyncio.to_thread(running.use, name)
        if step == 4:
            await asyncio.to_thread(running.kill)
            await asyncio.to_thread(running.start)
        headers = running.headers | ({"Last-Event-ID": last} if last else {})
        wanted = {item["id"]: item for item in running.api.get(rest).json()["activities"]}
        async with request(running.port, stream, headers=headers) as answer:
            while held != wanted:
                take(await answer.next())
            await asyncio.to_thread(running.use, "live")
            take(await answer.next())
    assert {item["client_name"] for item in held.values()} == {*names, "live"}
    assert running.complaints() == []


@pytest.mark.soak
@pytest.mark.parametrize("feed", [LOG, METRICS], ids=["logs", "metrics"])
async def test_for_long(running: Running, feed: Feed):
    async with asyncio.timeout(600):
        await play(running, feed, entries=8_000, kills=8, streams=40, leaves=60)
