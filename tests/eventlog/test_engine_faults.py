"""What servers and networks do to a log on Redis, Valkey or NATS, and what its followers see."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog import EventLog, open_log
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.nats import Nats
from support.proxy import Proxy, proxied
from support.until import outside, succeeds, until
from support.valkey import Valkey

ENGINES: list[Callable[[Path], Valkey | Nats]] = [
    lambda folder: Valkey(folder, "--appendonly", "yes", "--appendfsync", "always"),
    Nats,
]


@pytest.fixture(params=ENGINES, ids=["redis", "nats"])
async def server(request: Any, tmp_path: Path) -> AsyncIterator[Valkey | Nats]:
    """A server for one test, which may break it."""
    made = request.param(tmp_path / "server")
    await made.start()
    yield made
    made.kill()


@asynccontextmanager
async def on(server: Valkey | Nats, proxy: Proxy | None = None) -> AsyncIterator[EventLog]:
    """A log on the server, perhaps through a proxy."""
    url = server.url
    if proxy is not None:
        url = url.replace(str(server.port), str(proxy.port))
    async with open_log(url) as log:
        yield log


async def append_until_it_works(log: EventLog, data: Any, key: str | None = None) -> None:
    await succeeds(lambda: log.append("t", data, key=key), SourceUnavailableError)


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restarted_server_loses_nothing(server: Valkey | Nats, end: str) -> None:
    """Streams stay open over a restart, and requests meanwhile get an error."""
    async with on(server) as log:
        follower, quiet = Recorder(), Recorder()
        await log.follow("t", follower)
        await log.follow("quiet", quiet)
        kept = await log.append("t", [{"n": 1}, {"n": 2}], key="k")
        await follower.count(2)
        before = await log.bounds("t")
        getattr(server, end)()
        with pytest.raises(SourceUnavailableError):
            await log.append("t", {"n": "lost"})
        with pytest.raises(SourceUnavailableError):
            await log.bounds("t")
        with pytest.raises(SourceUnavailableError):
            await log.follow("new", Recorder())
        await server.start()
        await append_until_it_works(log, {"n": 3}, "l")
        await follower.count(3)
        assert numbers(follower.records) == [1, 2, 3]
        assert not follower.resets
        assert not quiet.resets
        assert (await log.bounds("t")).epoch == before.epoch
        assert await log.append("t", {"n": 9}, key="k") == kept


async def test_what_others_append_while_a_connection_is_cut_is_not_lost(
    server: Valkey | Nats,
) -> None:
    """A network that breaks again and again delays, and neither loses nor repeats."""
    async with proxied(server.port) as proxy, on(server, proxy) as log, on(server) as other:
        followers = {topic: Recorder() for topic in ("t", "u", "v")}
        for topic, follower in followers.items():
            await log.follow(topic, follower)
        for n in range(60):
            for topic in followers:
                await other.append(topic, [{"n": [n, 0]}, {"n": [n, 1]}])
            if n % 10 == 5:
                proxy.cut()
            if n % 10 == 8:
                proxy.cut_after(n)
        for topic, follower in followers.items():
            await follower.count(120)
            assert follower.records == await read_all(other, topic)
            assert not follower.resets


async def test_an_append_whose_answer_is_lost_is_an_error_and_a_retry_doubles_nothing(
    server: Valkey | Nats,
) -> None:
    """The caller cannot know; with the same key it need not."""
    async with proxied(server.port) as proxy, on(server, proxy) as log, on(server) as other:
        await log.append("t", {"n": 0})
        proxy.hold()
        lost = asyncio.create_task(log.append("t", [{"n": 1}, {"n": 2}]))

        async def arrived() -> bool:
            return len(await read_all(other, "t")) == 3

        await outside(arrived)
        proxy.cut()
        with pytest.raises(SourceUnavailableError, match="not known"):
            await lost
        proxy.release()
        keyed = asyncio.create_task(log.append("t", [{"n": 3}, {"n": 4}], key="k"))
        proxy.cut_after(3)
        await asyncio.wait([keyed])
        await append_until_it_works(log, [{"n": 3}, {"n": 4}], "k")
        assert numbers(await read_all(other, "t")) == [0, 1, 2, 3, 4]


async def test_a_slow_network_is_only_slow(server: Valkey | Nats) -> None:
    async with proxied(server.port) as proxy, on(server, proxy) as log, on(server) as other:
        follower = Recorder()
        await log.follow("t", follower)
        proxy.delay = 0.05
        await asyncio.gather(*(other.append("t", {"n": n}) for n in range(50)))
        await asyncio.gather(*(log.append("t", {"n": n}) for n in range(50)))
        await follower.count(100)
        assert follower.records == await read_all(other, "t")


async def test_a_server_that_says_nothing_is_given_up(
    server: Valkey | Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that hangs, or a dead link without a word: callers get an error in bounded time."""
    for module in ("redis._commands", "redis._pushes", "nats._connection"):
        monkeypatch.setattr(f"headwater.eventlog.{module}.PATIENCE", 1.0)
    async with on(server) as log:
        follower = Recorder()
        await log.follow("t", follower)
        await log.append("t", {"n": 1})
        await follower.count(1)
        await server.pause()
        try:
            async with asyncio.timeout(10):
                with pytest.raises(SourceUnavailableError, match="no answer within 1 s"):
                    await log.append("t", {"n": 2}, key="k")
                with pytest.raises(SourceUnavailableError):
                    await log.bounds("t")
        finally:
            server.resume()
        await append_until_it_works(log, {"n": 2}, "k")
        await follower.count(2)
        assert numbers(follower.records) == [1, 2]


async def test_another_server_in_its_place_is_another_log(
    server: Valkey | Nats, tmp_path: Path
) -> None:
    """Fail-over to a fresh, empty one: streams are reset once and go on with it."""
    fresh = type(server)(tmp_path / "fresh")
    await fresh.start()
    try:
        async with proxied(server.port) as proxy, on(server, proxy) as log:
            follower = Recorder()
            await log.append("t", [{"n": 1}, {"n": 2}])
            before = await log.follow("t", follower)
            proxy.target = fresh.port
            proxy.cut()
            await follower.until(lambda one: bool(one.resets), "a reset")
            reason, bounds, _ = follower.resets[0]
            assert reason == "unknown"
            assert bounds.epoch != before.epoch
            await log.append("t", {"n": 3})
            await follower.count(1)
            assert numbers(follower.records) == [3]
            assert len(follower.resets) == 1
    finally:
        fresh.kill()


async def test_an_older_copy_of_itself_is_another_log(
    server: Valkey | Nats, tmp_path: Path
) -> None:
    """A restored backup lacks what clients have: they are reset, and no position is mistaken."""
    async with on(server) as log:
        follower, other = Recorder(), Recorder()
        await log.append("t", [{"n": 1}, {"n": 2}])
        before = await log.follow("t", follower)
        await log.follow("other", other)
        server.stop()
        shutil.copytree(server.folder, tmp_path / "backup")
        await server.start()
        await append_until_it_works(log, {"n": "forgotten"})
        await follower.count(1)
        server.stop()
        shutil.rmtree(server.folder)
        shutil.copytree(tmp_path / "backup", server.folder)
        await server.start()
        await follower.until(lambda one: bool(one.resets), "a reset")
        await other.until(lambda one: bool(one.resets), "a reset")
        after = await log.bounds("t")
        assert after.epoch != before.epoch
        assert follower.resets[0][0] == "unknown"
        await log.append("t", {"n": 3})
        await follower.count(2)
        assert numbers(await read_all(log, "t")) == [1, 2, 3]


async def test_a_follower_that_a_trim_overtook_is_reset(server: Valkey | Nats) -> None:
    """What was removed while it could not read cannot be sent: the follower gets ``expired``."""
    async with proxied(server.port) as proxy, on(server, proxy) as log, on(server) as other:
        lost, kept = Recorder(), Recorder()
        await log.follow("t", lost)
        await log.follow("kept", kept)
        await log.append("t", {"n": 0})
        await lost.count(1)
        proxy.hold()
        await other.append("t", [{"n": n} for n in range(1, 6)])
        await other.append("kept", {"n": 0})
        await other.trim("t", max_count=2)
        proxy.cut()
        proxy.release()
        await lost.until(lambda one: bool(one.resets), "a reset")
        reason, bounds, had = lost.resets[0]
        assert (reason, had) == ("expired", 1)
        assert bounds == await other.bounds("t")
        await other.append("t", {"n": 6})
        await lost.count(2)
        await kept.count(1)
        assert numbers(lost.records) == [0, 6]
        assert not kept.resets


@pytest.mark.long
async def test_ten_thousand_topics_come_and_go(server: Valkey | Nats) -> None:
    """Two connections and a few tasks, however many topics are followed."""
    async with proxied(server.port) as proxy, on(server, proxy) as log:
        tasks = len(asyncio.all_tasks())
        followers = {f"topic:{n}": Recorder() for n in range(10_000)}
        async with asyncio.TaskGroup() as group:
            for topic, follower in followers.items():
                group.create_task(log.follow(topic, follower))
        assert proxy.opened <= 2
        assert len(asyncio.all_tasks()) <= tasks + 8, "the proxy has two for each connection"
        await log.append("topic:77", {"n": 1})
        await followers["topic:77"].count(1)
        proxy.cut()
        await append_until_it_works(log, {"n": 0})
        await succeeds(lambda: log.append("topic:78", {"n": 2}, key="k"), SourceUnavailableError)
        await followers["topic:78"].count(1)
        for topic, follower in followers.items():
            await log.unfollow(topic, follower)
        assert sum(len(one.records) for one in followers.values()) == 2


async def test_a_closed_log_says_so_and_leaves_nothing(server: Valkey | Nats) -> None:
    tasks = asyncio.all_tasks()
    async with on(server) as log:
        await log.follow("t", Recorder())
        await log.append("t", {"n": 1})
        await log.close()
        for call in (log.append("t", {"n": 2}), log.bounds("t"), log.follow("t", Recorder())):
            with pytest.raises(UsageError, match="closed"):
                await call
    await until(lambda: not asyncio.all_tasks() - tasks)


async def test_closing_does_not_wait_for_a_server_that_is_away(server: Valkey | Nats) -> None:
    """A shut-down does not wait for a back-off."""
    async with on(server) as log:
        await log.follow("t", Recorder())
        server.kill()
        with pytest.raises(SourceUnavailableError):
            await log.follow("t", Recorder())
        async with asyncio.timeout(3):
            await log.close()


async def test_a_server_that_is_not_there_is_an_error_without_its_password() -> None:
    for url in ("redis://:hunter2@127.0.0.1:1/0", "nats://me:hunter2@127.0.0.1:1"):
        log = open_log(url)
        for call in (log.start(), log.append("t", {"n": 1}), log.follow("t", Recorder())):
            with pytest.raises(SourceUnavailableError) as caught:
                await call
            assert "hunter2" not in str(caught.value)
        await log.close()
