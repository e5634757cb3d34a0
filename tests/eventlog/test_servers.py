"""Servers as operators set them up: Sentinel, TLS, replicas, leaf nodes, mirrors, full disks.

Each works, or each call ends soon with one sentence.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from nats.js.api import StreamConfig, StreamSource
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog, open_log
from headwater.eventlog.redis import RedisLog
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.markdown import ROOT
from support.nats import Nats
from support.processes import free_port
from support.refusals import SOON, refused, running
from support.until import outside, succeeds
from support.valkey import Valkey

pytestmark = pytest.mark.long


class SentinelServer(Valkey):
    """Watches one primary, and makes its replica the primary half a second after it has gone."""

    def __init__(self, folder: Path, primary: Valkey) -> None:
        super().__init__(folder)
        (folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )

    def command(self) -> list[str]:
        return [super().command()[0], str(self.folder / "sentinel.conf"), "--sentinel"]


async def insist(log: EventLog, n: int) -> None:
    async def once() -> bool:
        return bool(await log.append("t", {"n": n}, key=f"k{n}"))

    await succeeds(once, SourceUnavailableError, patience=30.0)


async def test_a_fail_over_by_a_sentinel(tmp_path: Path) -> None:
    """The pool asks the Sentinel for the primary at each connection."""
    first, then = Valkey(tmp_path / "1"), Valkey(tmp_path / "2")
    sentinel = SentinelServer(tmp_path / "s", first)
    async with running(first), running(then), running(sentinel):
        async with then.client() as client:
            await client.replicaof("127.0.0.1", first.port)

        async def follows() -> bool:
            async with sentinel.client() as client:
                return len(await client.sentinel_slaves("main")) == 1

        await outside(follows)
        asked = Sentinel([("127.0.0.1", sentinel.port)])
        pool = asked.master_for("main", protocol=2, retry=Retry(NoBackoff(), 0)).connection_pool
        async with AsyncExitStack() as stack:
            for client in asked.sentinels:
                stack.push_async_callback(client.aclose)
            log = await stack.enter_async_context(RedisLog(pool))
            follower = Recorder(30.0)
            await log.follow("t", follower)
            await insist(log, 0)
            await follower.count(1)

            async def copied() -> bool:
                async with then.client() as client:
                    return await client.xlen("headwater:t:t") == 1

            await outside(copied)
            first.kill()
            await insist(log, 1)
            await follower.count(2)
            assert numbers(follower.records) == [0, 1]
            assert not follower.resets, "the replica had everything"


async def test_a_sentinel_is_no_primary(tmp_path: Path) -> None:
    primary = Valkey(tmp_path / "1")
    sentinel = SentinelServer(tmp_path / "s", primary)
    async with running(primary), running(sentinel):
        await refused(open_log(sentinel.url), "sentinel")


async def test_a_replica_takes_no_appends(tmp_path: Path) -> None:
    """It can be read, once its primary has a log; whoever appends hears why not."""
    primary, replica = Valkey(tmp_path / "1"), Valkey(tmp_path / "2")
    async with running(primary), running(replica):
        async with replica.client() as client:
            await client.replicaof("127.0.0.1", primary.port)
        async with open_log(primary.url) as log:
            await log.append("t", {"n": 0})
            other = open_log(replica.url)
            try:
                async with asyncio.timeout(SOON):
                    with pytest.raises(SourceUnavailableError, match="(?i)read.only"):
                        await other.append("t", {"n": 1})
            finally:
                await other.close()


@asynccontextmanager
async def behind_tls(port: int, certificate: tuple[str, str]) -> AsyncIterator[int]:
    """A port for TLS in front of a server that is built without, as many set it up; gives it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate[1], certificate[0])

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            back, on = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(passed(reader, on), passed(back, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def test_redis_over_tls_of_each_kind(valkey: Valkey, certificate: tuple[str, str]) -> None:
    async with behind_tls(valkey.port, certificate) as port:
        known = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate[1]}"
        async with open_log(f"{known}&ssl_check_hostname=false&prefix=tls") as log:
            await log.append("t", {"n": 1})
            assert numbers(await read_all(log, "t")) == [1]
        # Of an authority that nobody knows, of another host, in plain to a port for TLS.
        await refused(open_log(f"rediss://127.0.0.1:{port}/0"), "certificate")
        await refused(open_log(f"{known}&ssl_check_hostname=true"), "certificate")
        await refused(open_log(f"redis://127.0.0.1:{port}/0"), "closed", "reset", "no answer")


async def test_the_rights_of_a_redis_user_are_those_of_the_docs(tmp_path: Path) -> None:
    """Whoever gives a user these, and no more, has a log that works."""
    page = (ROOT / "docs" / "engines.md").read_text()
    sentence = re.search(r"On Redis a user needs (.*?) for\s+channels", page, re.DOTALL)
    assert sentence is not None, "the page names the rights of a user"
    rights = " ".join(re.findall(r"`([^`]+)`", sentence[1])).split()
    assert len(rights) >= 5
    server = Valkey(tmp_path, "--appendonly", "no")
    async with running(server):
        async with server.client() as client:
            await client.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", *rights)
        async with open_log(server.url.replace("redis://", "redis://u:p@")) as log:
            follower = Recorder()
            await log.follow("t", follower)
            await log.append("t", [{"n": 0}, {"n": 1}], key="k")
            await follower.count(2)
            assert await log.trim(max_count=1) == 1
            assert numbers(await read_all(log, "t")) == [1]


def leaf_and_hub(folder: Path, domain: str) -> tuple[Nats, Nats]:
    """A hub with JetStream, and a leaf node without; it passes on what is asked of a domain."""
    port = free_port()
    hub, leaf = folder / "hub.conf", folder / "leaf.conf"
    own = f"jetstream {{ domain: {domain} }}\n" if domain else ""
    asked = f'default_js_domain: {{ "$G": "{domain}" }}\n' if domain else ""
    hub.write_text(f"{own}leafnodes {{ listen: 127.0.0.1:{port} }}")
    remote = f'{{ url: "nats://127.0.0.1:{port}" }}'
    leaf.write_text(f"{asked}leafnodes {{ remotes: [ {remote} ] }}")

    class Leaf(Nats):
        def command(self) -> list[str]:
            address = ["--addr", "127.0.0.1", "--port", str(self.port)]
            return [super().command()[0], *address, "--config", str(leaf)]

    return Leaf(folder / "leaf"), Nats(folder / "hub", "--config", str(hub))


async def test_a_leaf_node_that_asks_a_domain_passes_everything_on(tmp_path: Path) -> None:
    """A process beside a leaf node uses the log of the hub behind it."""
    near, far = leaf_and_hub(tmp_path, "hub")
    async with running(far), running(near), open_log(far.url) as there:
        here = open_log(near.url)
        try:
            await succeeds(here.start, SourceUnavailableError)
            followers = [Recorder(), Recorder()]
            await there.follow("t", followers[0])
            await here.follow("t", followers[1])
            for n in range(20):
                await (here if n % 2 else there).append("t", {"n": n}, key=f"k{n}")
            for follower in followers:
                await follower.count(20)
                assert numbers(follower.records) == list(range(20))
        finally:
            await here.close()


async def test_a_leaf_node_that_asks_none_is_refused(tmp_path: Path) -> None:
    """As it is without settings: the server keeps the two sides' JetStream apart."""
    near, far = leaf_and_hub(tmp_path, "")
    async with running(far), running(near):
        await refused(open_log(near.url), "jetstream is not enabled")


async def test_a_mirror_is_no_log(nats: Nats) -> None:
    """A copy that somebody else fills takes no appends, and says so."""
    await nats.wipe()
    async with open_log(nats.url) as log, nats.streams() as streams:
        await log.append("t", {"n": 0})
        copy = StreamConfig(name="copy", mirror=StreamSource(name="headwater"), allow_direct=True)
        await streams.add_stream(copy)
        try:
            await refused(open_log(f"{nats.url}?stream=copy"), "mirror")
        finally:
            await streams.delete_stream("copy")
    await nats.wipe()


@asynccontextmanager
async def small_disk(folder: Path, megabytes: int) -> AsyncIterator[Path]:
    """A file system of its own."""
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("engine", ["sqlite", "valkey", "nats"])
async def test_a_full_disk_refuses_and_goes_on_when_there_is_room(
    tmp_path: Path, engine: str
) -> None:
    async with AsyncExitStack() as stack:
        disk = await stack.enter_async_context(small_disk(tmp_path / "disk", 40))
        filler = disk / "filler"
        if engine == "sqlite":
            url = f"sqlite:///{disk}/log.db"
        elif engine == "valkey":
            server: Valkey | Nats = Valkey(disk, "--appendonly", "yes", "--appendfsync", "everysec")
            await stack.enter_async_context(running(server))
            url = server.url
        else:
            server = Nats(disk)
            await stack.enter_async_context(running(server))
            url = server.url
        log = await stack.enter_async_context(open_log(url))
        follower = Recorder(30.0)
        await log.follow("t", follower)
        (first,) = await log.append("t", {"n": 0})
        await follower.count(1)
        with filler.open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(2**16))
                file.flush()
        kept = 1
        with pytest.raises(SourceUnavailableError) as caught:
            for n in range(1, 400):
                async with asyncio.timeout(SOON):
                    await log.append("t", {"n": n, "fill": "x" * 100_000}, key=f"k{n}")
                kept += 1
        assert len(str(caught.value).splitlines()) == 1
        filler.unlink()
        if engine == "nats":
            # It switches JetStream off, and on again when it starts.
            server.stop()
            await server.start()
        await insist(log, kept)
        found = await read_all(log, "t")
        assert numbers(found) == list(range(kept + 1)), "an acknowledged event is lost, or doubled"
        await follower.count(kept + 1)
        assert follower.records == found
        assert found[0] == first
