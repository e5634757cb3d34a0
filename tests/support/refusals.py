"""Engines that refuse: whatever is asked of a log ends soon, with one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from headwater.errors import HeadwaterError
from headwater.eventlog import EventLog
from headwater.testing._eventlog import Recorder
from support.nats import Nats
from support.valkey import Valkey

SOON = 12.0


@asynccontextmanager
async def running(server: Valkey | Nats) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        server.kill()


async def refused(log: EventLog, *said: str) -> None:
    """Starting, appending, following and reading each end soon with a sentence."""
    recorder = Recorder()
    try:
        for attempt in (
            log.start,
            lambda: log.append("t", {"n": 1}),
            lambda: log.follow("t", recorder),
            lambda: log.bounds("t"),
        ):
            async with asyncio.timeout(SOON):
                with pytest.raises(HeadwaterError) as caught:
                    await attempt()
            assert any(one in str(caught.value).lower() for one in said), str(caught.value)
            assert "secret" not in str(caught.value)
    finally:
        async with asyncio.timeout(SOON):
            await log.close()
