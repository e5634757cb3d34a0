"""Every entry once, in one order, for streams that leave and resume all the time.

Four writers at once: three over HTTP, in batches whose rows have one timestamp, and one in another
process with plain SQL, which also rolls back. Readers leave in the middle of bytes and resume by
header, by parameter or over REST.
"""

from __future__ import annotations

import asyncio

import pytest
from running import Running
from scenario import LOG, METRICS, Feed, Scenario

pytestmark = pytest.mark.long


async def test_every_stream_has_each_log_entry_once_in_one_order(shared: Running):
    async with asyncio.timeout(60):
        await Scenario(shared, entries=1000, streams=10, leaves=10, filtered=4).play()
    assert shared.complaints() == []


@pytest.mark.long
async def test_every_stream_has_each_report_of_the_event_log_once_in_one_order(shared: Running):
    async with asyncio.timeout(60):
        await Scenario(shared, METRICS, entries=800, streams=10, leaves=10).play()
    assert shared.complaints() == []


@pytest.mark.soak
@pytest.mark.parametrize("feed", [LOG, METRICS], ids=["logs", "metrics"])
async def test_for_long(running: Running, feed: Feed):
    scenario = Scenario(
        running,
        feed,
        entries=10_000,
        streams=60,
        leaves=100,
        filtered=10 if feed is LOG else 0,
    )
    async with asyncio.timeout(900):
        await scenario.play()
    assert running.complaints() == []
