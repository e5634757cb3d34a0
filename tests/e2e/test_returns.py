"""After a restart clients come back one after another, and not all in one moment."""

from __future__ import annotations

import asyncio
import time

import pytest
from returning import Flock, Returning, by_second
from running import Running

from support.until import outside


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_after_a_restart_no_tenth_of_a_second_has_more_than_a_tenth_of_them(
    running: Running,
) -> None:
    """Short forms: the times that streams are sent, and that nothing listens during a start."""
    count = 1_000
    clients = [Returning(running.port, "/api/logs/stream", running.headers) for _ in range(count)]
    async with Flock(clients) as flock:
        await outside(flock.all_live, 60)
        began = time.monotonic()
        await asyncio.to_thread(running.stop)
        await asyncio.to_thread(running.start)
        await outside(flock.all_live, 60)
    for kind, histogram in (("due", flock.planned(began)), ("back", flock.histogram(began))):
        print(f"{count} {kind}, by second: {by_second(histogram)}")
        assert max(histogram.values()) <= count / 10, sorted(histogram.items())
    assert all(client.snapshots == 1 for client in clients)
