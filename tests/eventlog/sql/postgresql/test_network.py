"""What networks, and servers that hang, do to a log on PostgreSQL, and what its followers see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog, open_log
from headwater.eventlog.sql.postgresql._dialect import PostgresDialect
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.postgres import Postgres
from support.proxy import Proxy, proxied
from support.until import succeeds

pytestmark = pytest.mark.long


@pytest.fixture
async def network(postgres: Postgres) -> AsyncIterator[Proxy]:
    async with proxied(str(postgres.folder / ".s.PGSQL.5432")) as proxy:
        yield proxy


@pytest.fixture
async def log(network: Proxy, database: str) -> AsyncIterator[EventLog]:
    """A log whose connections go through the network."""
    url = f"postgresql://postgres@127.0.0.1:{network.port}/{database}"
    async with open_log(url) as log:
        yield log
        network.release()


@pytest.fixture
async def other(url: str) -> AsyncIterator[EventLog]:
    """The same log, beside it."""
    async with open_log(url) as log:
        yield log


@asynccontextmanager
async def silence(network: Proxy) -> AsyncIterator[None]:
    network.hold()
    try:
        yield
    finally:
        network.release()


async def append_until_it_works(log: EventLog, data: Any, key: str) -> None:
    await succeeds(lambda: log.append("t", data, key=key), SourceUnavailableError)


async def test_what_others_append_while_connections_are_cut_is_not_lost(
    network: Proxy, log: EventLog, other: EventLog
) -> None:
    """A network that breaks again and again, also in the middle of an answer."""
    followers = {topic: Recorder() for topic in ("t", "u")}
    for topic, follower in followers.items():
        await log.follow(topic, follower)
    for n in range(30):
        for topic in followers:
            await other.append(topic, [{"n": [n, 0]}, {"n": [n, 1]}])
        if n % 10 == 5:
            network.cut()
        if n % 10 == 8:
            network.cut_after(100 + n)
    for topic, follower in followers.items():
        await follower.count(60)
        assert follower.records == await read_all(other, topic)
        assert not follower.resets


async def test_an_append_whose_answer_is_lost_is_an_error_and_a_retry_doubles_nothing(
    network: Proxy, log: EventLog, other: EventLog
) -> None:
    await log.append("t", {"n": 0})
    for count in (1, 40, 80, 120):
        # Somewhere between the first statement and the answer of the commit.
        network.cut_after(count)
        await append_until_it_works(log, [{"n": count}, {"n": -count}], f"k{count}")
    wanted = [0, *(n for count in (1, 40, 80, 120) for n in (count, -count))]
    assert numbers(await read_all(other, "t")) == wanted


async def test_a_slow_network_is_only_slow(network: Proxy, log: EventLog, other: EventLog) -> None:
    follower = Recorder()
    await log.follow("t", follower)
    network.delay = 0.02
    await asyncio.gather(*(other.append("t", {"n": n}) for n in range(20)))
    await asyncio.gather(*(log.append("t", {"n": n}) for n in range(20)))
    await follower.count(40)
    assert follower.records == await read_all(other, "t")


async def test_a_server_that_says_nothing_is_given_up(
    network: Proxy, log: EventLog, other: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that hangs, or a dead link without a word: callers get an error in bounded time."""
    monkeypatch.setattr(PostgresDialect, "patience", 1.0)
    follower = Recorder()
    await log.follow("t", follower)
    await log.append("t", {"n": 1})
    await follower.count(1)
    async with silence(network), asyncio.timeout(10):
        with pytest.raises(SourceUnavailableError, match="1 s; whether it was done is not"):
            await log.append("t", {"n": 2}, key="k")
        with pytest.raises(SourceUnavailableError, match="no answer within 1 s$"):
            await log.bounds("t")
    await append_until_it_works(log, {"n": 2}, "k")
    await other.append("t", {"n": 3})
    await follower.count(3)
    assert numbers(follower.records) == [1, 2, 3]
    assert not follower.resets
