"""Every refusal of an engine ends a start, an append or an open soon, with one sentence."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nats.js.api import SubjectTransform
from redis.asyncio import ConnectionPool, Redis

from headwater.errors import HeadwaterError, SourceUnavailableError, UsageError
from headwater.eventlog import open_log
from headwater.eventlog.redis import RedisLog
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.nats import Nats
from support.refusals import SOON, refused, running
from support.until import outside, succeeds, until
from support.valkey import Valkey


async def test_redis_refuses_a_wrong_password(tmp_path: Path) -> None:
    server = Valkey(tmp_path)
    async with running(server):
        async with server.client() as client:
            await client.config_set("requirepass", "right")
        url = server.url.replace("redis://", "redis://:secret@")
        await refused(open_log(url), "password", "wrongpass", "auth")


async def test_nats_refuses_a_wrong_password(tmp_path: Path) -> None:
    server = Nats(tmp_path, "--user", "u", "--pass", "right")
    async with running(server):
        await refused(open_log(server.url.replace("nats://", "nats://u:secret@")), "authorization")


async def test_a_password_is_percent_encoded_on_nats_too(tmp_path: Path) -> None:
    server = Nats(tmp_path, "--user", "u@x", "--pass", "p:@/%")
    async with running(server):
        url = server.url.replace("nats://", "nats://u%40x:p%3A%40%2F%25@")
        async with open_log(url) as log:
            await log.append("t", {"n": 1})


async def test_tls_that_cannot_be_trusted(tmp_path: Path, certificate: tuple[str, str]) -> None:
    key, found = certificate
    server = Nats(tmp_path, "--tls", "--tlscert", found, "--tlskey", key)
    async with running(server):
        await refused(open_log(server.url.replace("nats:", "tls:")), "certificate", "tls", "ssl")


async def test_tls_where_the_server_has_none(tmp_path: Path) -> None:
    nats, valkey = Nats(tmp_path / "n"), Valkey(tmp_path / "v")
    async with running(nats), running(valkey):
        await refused(open_log(nats.url.replace("nats:", "tls:")), "tls", "ssl", "no answer")
        url = valkey.url.replace("redis:", "rediss:")
        await refused(open_log(url), "ssl", "tls", "no answer", "closed", "reset", "eof")


async def test_the_wrong_server(tmp_path: Path) -> None:
    nats, valkey = Nats(tmp_path / "n"), Valkey(tmp_path / "v")
    async with running(nats), running(valkey):
        await refused(open_log(f"redis://127.0.0.1:{nats.port}"), "event log (redis)")
        await refused(open_log(f"nats://127.0.0.1:{valkey.port}"), "event log (nats)")


async def test_a_redis_user_without_channels(tmp_path: Path) -> None:
    """The default of Redis 7: an append is stored once, and following is refused at once."""
    server = Valkey(tmp_path, "--appendonly", "no")
    async with running(server):
        async with server.client() as client:
            await client.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "+@all")
            await client.execute_command("ACL", "SETUSER", "u", "resetchannels")
        async with open_log(server.url.replace("redis://", "redis://u:p@")) as log:
            await log.append("t", {"n": 1}, key="k")
            await log.append("t", {"n": 1}, key="k")
            await log.append("t", {"n": 2})
            assert numbers(await read_all(log, "t")) == [1, 2]
            async with asyncio.timeout(SOON):
                with pytest.raises(SourceUnavailableError, match="following is refused.*channel"):
                    await log.follow("t", Recorder())
            async with open_log(server.url) as other:
                follower = Recorder()
                await other.follow("t", follower)
                await log.append("t", {"n": 3})
                await follower.count(1)


@pytest.mark.parametrize("command", ["xadd", "hincrby", "set", "hset"])
async def test_a_redis_user_without_a_command_stores_nothing(tmp_path: Path, command: str) -> None:
    server = Valkey(tmp_path, "--appendonly", "no")
    async with running(server):
        async with server.client() as client:
            await client.execute_command(
                *("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all", f"-{command}")
            )
        async with open_log(server.url) as other:
            before = (await other.bounds("t")).epoch
        async with open_log(server.url.replace("redis://", "redis://u:p@")) as log:
            for _ in range(2):
                with pytest.raises(SourceUnavailableError, match=command):
                    await log.append("t", {"n": 1}, key="k")
            async with open_log(server.url) as other:
                assert await read_all(other, "t") == []
                assert (await other.bounds("t")).epoch == before
                assert numbers(await other.append("t", {"n": 1}, key="k")) == [1]


async def test_a_redis_cluster_is_refused(tmp_path: Path) -> None:
    # By default the port of the cluster's own talk is 10,000 above, which may be too high.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        talk = str(free.getsockname()[1])
    server = Valkey(tmp_path, "--cluster-enabled", "yes", "--cluster-port", talk)
    async with running(server):
        await refused(open_log(server.url), "cluster")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/0?protocol=3",
        "redis://h/0?decode_responses=true",
        "redis://h/0?socket_timeout=1",
        "redis://h/0?nonsense=1",
        "redis://h/0?prefix=shop:t",
        "redis://h/0?prefix=shop:log:x",
        "redis://h/name",
        "redis://h/0/1",
        "redis://[::1",
        "redis://:secret#1@h",
        "redis://h?keys_kept=²",
        "redis://h?keys_kept=99999999999999999999",
        "rediss://h?ssl_cert_reqs=some",
        "nats://a:b@h,c:d@i",
        "nats://h:port",
        "nats://h:99999",
        "nats://h,",
        "nats://[::1",
        "nats://user:secret#1@h",
        "nats://h?credentials=",
        "nats://h?replicas=²",
        "postgresql://[::1/name",
        "sqlite:///\0",
        None,
    ],
)
def test_addresses_that_cannot_work(url: str) -> None:
    """At once, and not at the first read. No password is shown."""
    with pytest.raises(UsageError) as caught:
        open_log(url)
    assert "secret" not in str(caught.value)


def test_pools_that_cannot_work() -> None:
    for options in ({"protocol": 3}, {"decode_responses": True}):
        with pytest.raises(UsageError, match="protocol=2"):
            RedisLog(ConnectionPool(**options))


async def test_databases_of_one_server_are_apart(valkey: Valkey) -> None:
    """All databases of a server share channels."""
    one, two = f"{valkey.url}?prefix=apart", f"{valkey.url[:-1]}1?prefix=apart"
    async with open_log(one) as first, open_log(two) as second:
        followers = [Recorder(), Recorder()]
        await first.follow("t", followers[0])
        await second.follow("t", followers[1])
        for n in range(20):
            await first.append("t", {"n": n})
            await second.append("t", {"n": -n})
        for follower in followers:
            await follower.count(20)
        assert numbers(followers[0].records) == list(range(20))
        assert numbers(followers[1].records) == [-n for n in range(20)]
        async with Redis(port=valkey.port) as client:
            assert await client.exists("apart:log")


def nats_with(tmp_path: Path, denied: str) -> Nats:
    """A server with a user ``u`` for whom something is denied, and an ``admin``."""
    path = tmp_path / "nats.conf"
    path.write_text(
        "authorization { users = [ {user: admin, password: p},"
        f" {{user: u, password: p, permissions: {{ {denied} }} }} ] }}"
    )
    return Nats(tmp_path / "server", "--config", str(path))


@pytest.mark.parametrize(
    ("denied", "works"),
    [
        ('subscribe: {deny: "headwater.n.>"}', True),
        ('subscribe: {deny: "_INBOX.>"}', False),
        ('publish: {deny: "$JS.API.>"}', False),
    ],
    ids=["pushes", "inbox", "api"],
)
async def test_a_nats_user_without_a_right(tmp_path: Path, denied: str, works: bool) -> None:
    server = nats_with(tmp_path, denied)
    async with running(server):
        log = open_log(server.url.replace("nats://", "nats://u:p@"))
        if not works:
            await refused(log, "permissions violation")
            return
        async with log:
            await log.append("t", {"n": 1})
            async with asyncio.timeout(SOON):
                with pytest.raises(SourceUnavailableError, match=r"(?i)permissions.*headwater\.n"):
                    await log.follow("t", Recorder())


async def edit(nats: Nats, **settings: Any) -> None:
    """Change the stream's settings, as an operator does."""
    async with nats.streams() as streams:
        config = (await streams.stream_info("headwater")).config
        for name, value in settings.items():
            setattr(config, name, value)
        await streams.update_stream(config)


async def test_a_full_nats_stream_can_be_trimmed(nats: Nats) -> None:
    await nats.wipe()
    async with open_log(nats.url) as log:
        await log.append("t", [{"n": n} for n in range(10)])
        await edit(nats, max_msgs=11)
        with pytest.raises(SourceUnavailableError, match="maximum messages"):
            await log.append("t", {"n": 10})
        assert await log.trim("t", max_count=3) == 7
        await log.append("t", {"n": 10})
        assert numbers(await read_all(log, "t")) == [7, 8, 9, 10]
    await nats.wipe()


@pytest.mark.parametrize("events", [[{"n": 1}], [{"n": 1}, {"n": 2}]], ids=["one", "batch"])
async def test_a_key_outlives_a_trim_and_a_restart(
    nats: Nats, events: Sequence[dict[str, int]]
) -> None:
    """On NATS a key is kept for an hour, whatever becomes of its events."""
    await nats.wipe()
    async with open_log(nats.url) as log:
        await log.append("t", events, key="k")
        await log.append("t", {"n": 3})
        await log.trim("t", max_count=1)
    nats.stop()
    await nats.start()
    async with open_log(nats.url) as log:
        assert await log.append("t", events, key="k") == []
        assert numbers(await read_all(log, "t")) == [3]


async def test_settings_that_are_edited_while_it_runs(
    nats: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    """Noticed within 10 s, said in one sentence; and nothing is lost meanwhile."""
    await nats.wipe()
    async with open_log(nats.url) as log:
        follower = Recorder(15.0)
        await log.follow("t", follower)
        await log.append("t", {"n": 0})
        await follower.count(1)
        await edit(nats, max_msgs_per_subject=2)
        await until(lambda: "removes events by itself" in caplog.text, 10)
        topic = log.topic("t")
        page = await topic.page(1)
        await log.append("t", [{"n": n} for n in range(1, 6)])
        await follower.count(6)
        with pytest.raises(HeadwaterError):
            await topic.locate(page.epoch, str(page.end))
    await nats.wipe()


@pytest.mark.long
async def test_events_that_the_stream_stores_elsewhere_are_refused_and_then_reset(
    nats: Nats,
) -> None:
    """Within 10 s; once that is undone, streams are reset, as events are missing."""
    await nats.wipe()
    async with open_log(nats.url) as log:
        follower = Recorder(15.0)
        await log.follow("t", follower)
        await log.append("t", {"n": 0})
        await follower.count(1)
        page = await log.topic("t").page(1)
        transform = SubjectTransform("headwater.t.*", "headwater.x.{{wildcard(1)}}")
        await edit(nats, subject_transform=transform)

        async def refused() -> bool:
            try:
                await log.append("t", {"n": 1})
            except UsageError as error:
                return "subject_transform" in str(error)
            return False

        await outside(refused, 10)
        await edit(nats, subject_transform=None)
        await succeeds(lambda: log.append("t", {"n": 2}), HeadwaterError)
        await follower.until(lambda one: bool(one.resets), "a reset")
        with pytest.raises(HeadwaterError):
            await log.topic("t").locate(page.epoch, str(page.end))
    await nats.wipe()


@pytest.mark.long
async def test_a_stream_whose_subjects_were_removed_says_which_it_needs(nats: Nats) -> None:
    """Nothing is stored then, so nothing is missing once they are back."""
    await nats.wipe()
    async with open_log(nats.url) as log:
        follower = Recorder()
        await log.follow("t", follower)
        await log.append("t", {"n": 0})
        async with nats.streams() as streams:
            subjects = (await streams.stream_info("headwater")).config.subjects
        await edit(nats, subjects=["headwater.s.*", "headwater.k.*", "headwater.epoch"])
        with pytest.raises(UsageError, match=r"the subjects headwater\.t"):
            await log.append("t", {"n": 1})
        await edit(nats, subjects=subjects)
        await log.append("t", {"n": 2})
        await follower.count(2)
        assert numbers(follower.records) == [0, 2]
        assert not follower.resets
    await nats.wipe()


@pytest.mark.long
async def test_the_time_for_which_keys_are_kept_is_kept(nats: Nats) -> None:
    """Somebody shortens it while a process follows: a retry would append again."""
    await nats.wipe()
    async with open_log(nats.url) as log, nats.streams() as streams:
        await log.follow("t", Recorder())
        usual = (await streams.stream_info("headwater")).config.duplicate_window
        await edit(nats, duplicate_window=1.0)

        async def mended() -> bool:
            return (await streams.stream_info("headwater")).config.duplicate_window == usual

        await outside(mended, 10)
    await nats.wipe()
