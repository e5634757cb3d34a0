"""A log that three servers keep: one of them dies, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import nats
import pytest

from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog, open_log
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.nats import Nats
from support.processes import free_port
from support.until import outside, succeeds


class Cluster:
    """Three servers that know of each other."""

    def __init__(self, folder: Path) -> None:
        ports = [free_port() for _ in range(3)]
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
        self.servers = {
            name: Nats(
                folder / name,
                *("--name", name, "--cluster_name", "three"),
                *("--cluster", f"nats://127.0.0.1:{port}", "--routes", routes),
            )
            for name, port in zip("abc", ports, strict=True)
        }

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers.values())
        return f"nats://{hosts}?replicas=3"

    async def leader(self) -> Nats:
        """The server that decides for the stream."""
        client = await nats.connect([server.url for server in self.servers.values()])
        try:
            answer = await client.request("$JS.API.STREAM.INFO.headwater", b"", timeout=5)
        finally:
            await client.close()
        info = json.loads(answer.data)
        assert info["config"]["num_replicas"] == 3
        return self.servers[info["cluster"]["leader"]]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        await asyncio.gather(*(server.start() for server in made.servers.values()))
        yield made
    finally:
        for server in made.servers.values():
            server.kill()


async def opened(url: str) -> EventLog:
    """They elect a leader first, and nothing can be made before."""
    log = open_log(url)
    await succeeds(log.start, SourceUnavailableError, patience=60)
    return log


# The others wait some seconds for a server that was killed.
@pytest.mark.parametrize("end", ["stop", pytest.param("kill", marks=pytest.mark.soak)])
async def test_a_leader_that_goes_takes_nothing_with_it(
    cluster: Cluster, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that were connected to it go on at another one, and each event comes once."""
    # Without a leader there is no answer: ask again soon.
    monkeypatch.setattr("headwater.eventlog.nats._connection.PATIENCE", 2.0)
    logs = [await opened(cluster.url) for _ in range(3)]
    try:
        followers = [Recorder() for _ in logs]
        for log, follower in zip(logs, followers, strict=True):
            await log.follow("t", follower)
        for n in range(120):
            if n == 60:
                leader = await cluster.leader()
                getattr(leader, end)()
            # One event or three, with the same key until it is acknowledged.
            data = [{"n": [n, part]} for part in range(1 + 2 * (n % 2))]
            append = partial(logs[n % 3].append, "t", data, key=f"k{n}")
            await succeeds(append, SourceUnavailableError, patience=60)
        kept = await outside(lambda: read_when_there(logs[0]), 60)
        wanted = [[n, part] for n in range(120) for part in range(1 + 2 * (n % 2))]
        assert numbers(kept) == wanted
        for follower in followers:
            await follower.count(len(wanted))
            assert follower.records == kept
            assert not follower.resets
        assert await cluster.leader() is not leader
    finally:
        for log in logs:
            await log.close()


async def read_when_there(log: EventLog) -> list:
    try:
        return await read_all(log, "t")
    except SourceUnavailableError:
        return []
