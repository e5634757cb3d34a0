"""A log in several event loops: one after another, as by ``asyncio.run`` twice, or two at once."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from headwater.errors import UsageError
from headwater.eventlog import START, EventLog, open_log
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers
from support.nats import Nats
from support.valkey import Valkey


async def follow(log: EventLog, number: int) -> None:
    """Follow, append, and leave without an end of following."""
    follower = Recorder()
    await log.follow("t", follower)
    await log.append("t", {"n": number})
    await follower.count(1)
    assert numbers(follower.records) == [number]
    assert numbers((await log.read("t", START, 10)).records) == [*range(number + 1)]


def one_after_another(url: str) -> None:
    log = open_log(url)
    for number in range(3):
        asyncio.run(follow(log, number))

    async def close() -> None:
        await log.close()
        await log.close()

    asyncio.run(close())


def test_one_after_another(tmp_path: Path) -> None:
    one_after_another(f"sqlite:///{tmp_path}/log.db")


# Nobody can close a connection of an event loop that has ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_after_another_on_servers(valkey: Valkey, nats: Nats) -> None:
    for url in (f"{valkey.url}?prefix=loops", f"{nats.url}?stream=loops"):
        one_after_another(url)
    gc.collect()


def test_a_second_one_beside_the_first_is_refused(tmp_path: Path) -> None:
    """It would get nothing, or wait for ever. Another log on the same storage works."""
    log = open_log(f"sqlite:///{tmp_path}/log.db")

    async def first() -> None:
        await follow(log, 0)
        with pytest.raises(UsageError, match=r"another\(\)"):
            await asyncio.to_thread(lambda: asyncio.run(follow(log, 1)))
        await asyncio.to_thread(lambda: asyncio.run(beside()))

    async def beside() -> None:
        async with log.another() as other:
            await follow(other, 1)

    asyncio.run(first())
    asyncio.run(log.close())
