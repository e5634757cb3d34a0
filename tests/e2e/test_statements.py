"""What a feed costs the database does not grow with the number of its streams."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Running

pytestmark = pytest.mark.long

MANY = 1000
USERS = 300
WRITES = 15
# Rights are asked again every second at least, so that each period holds several rounds.
RECHECK = 1.0
PERIOD = 3.0


@pytest.fixture(scope="module")
def files() -> Iterator[None]:
    """Room for the connections, here and in the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3 * MANY:
        pytest.skip(f"a process may have {hard} files open; {3 * MANY} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3 * MANY), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def watched(
    seeded: Path, tmp_path_factory: pytest.TempPathFactory, files: None
) -> Iterator[Running]:
    server = Running(seeded, tmp_path_factory.mktemp("watched"), recheck_seconds=RECHECK)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Ear(asyncio.Protocol):
    """One stream: counts what it is told, as cheaply as can be."""

    def __init__(self, path: str, headers: dict[str, str]) -> None:
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = "\r\n".join(lines).encode() + b"\r\n\r\n"
        self._heard = bytearray()
        self._event = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        self._event.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._event.set()

    async def hears(self, event: bytes, times: int) -> None:
        while self._heard.count(b"\nevent: " + event) < times:
            assert self.transport is not None
            assert not self.transport.is_closing(), bytes(self._heard[-500:])
            self._event.clear()
            await self._event.wait()


@contextlib.asynccontextmanager
async def ears(port: int, path: str, callers: list[dict[str, str]]) -> AsyncIterator[list[Ear]]:
    """Streams that have begun, one for each caller."""
    found = [Ear(path, headers) for headers in callers]
    loop = asyncio.get_running_loop()
    try:
        for start in range(0, len(found), 50):
            some = found[start : start + 50]
            for ear in some:
                await loop.create_connection(lambda ear=ear: ear, "127.0.0.1", port)
            await asyncio.gather(*(ear.hears(b"snapshot", 1) for ear in some))
        yield found
    finally:
        for ear in found:
            if ear.transport is not None:
                ear.transport.abort()


async def statements(
    server: Running, event: bytes, streams: list[Ear], write: Any
) -> tuple[int, int]:
    """Statements in one period in which some writes reach all streams, and rounds of rights."""
    loop = asyncio.get_running_loop()
    before = await asyncio.to_thread(server.measured, "headwater_database_statements_total")
    began = loop.time()
    for number in range(WRITES):
        await asyncio.to_thread(write, f"{len(streams)}-{number}")
        await asyncio.gather(*(ear.hears(event, number + 1) for ear in streams))
        # Not to wait for anything: this is the rate of the writes.
        await asyncio.sleep(max(0.0, began + (number + 1) * PERIOD / WRITES - loop.time()))
    after = await asyncio.to_thread(server.measured, "headwater_database_statements_total")
    # A round begins after 0.8 times the interval at the earliest.
    return int(after - before), math.ceil((loop.time() - began) / (RECHECK * 0.8))


async def test_a_thousand_streams_of_one_log_cost_what_one_costs(watched: Running):
    one, many = [watched.headers], [watched.headers] * MANY
    async with asyncio.timeout(60):
        async with ears(watched.port, "/api/logs/stream", one) as streams:
            few, rounds = await statements(watched, b"log\n", streams, watched.log)
        async with ears(watched.port, "/api/logs/stream", many) as streams:
            lots, more = await statements(watched, b"log\n", streams, watched.log)
    print(
        f"\n{WRITES} writes and {rounds}, {more} rounds of rights: {few} statements with 1 stream, "
    )
    print(f"{lots} with {MANY}")
    # On a busy machine the second period is longer and has more rounds, of one statement each.
    assert lots <= few + 2 * max(0, more - rounds) + 4
    assert watched.complaints() == []


def add_members(server: Running, count: int) -> list[dict[str, str]]:
    """Users of the team with an API key each; by SQL, because passwords take long to hash."""
    keys = [f"hw_member-{number}" for number in range(count)]
    ids = [f"member-{number}" for number in range(count)]
    with contextlib.closing(sqlite3.connect(server.database, timeout=30)) as database:
        database.executemany(
            "INSERT INTO users (id, email, password_hash) VALUES (?, ?, '')",
            [(user_id, f"{user_id}@example.org") for user_id in ids],
        )
        database.executemany(
            "INSERT INTO team_members (team_id, user_id) VALUES (?, ?)",
            [(server.team_id, user_id) for user_id in ids],
        )
        database.executemany(
            "INSERT INTO api_keys (user_id, name, key_hash) VALUES (?, 'key', ?)",
            [
                (user_id, hashlib.sha256(key.encode()).hexdigest())
                for user_id, key in zip(ids, keys, strict=True)
            ],
        )
        database.commit()
    return [{"Authorization": f"Bearer {key}"} for key in keys]


async def test_hundreds_of_users_of_one_feed_cost_nearly_what_one_costs(watched: Running):
    """Everyone's rights are asked again, but many in one statement."""
    callers = await asyncio.to_thread(add_members, watched, USERS)
    path = f"/api/teams/{watched.team_id}/notifications/stream"

    def write(title: str) -> None:
        watched.notify(title, team=True)

    async with asyncio.timeout(60):
        async with ears(watched.port, path, callers[:1]) as streams:
            few, _ = await statements(watched, b"notification\n", streams, write)
        async with ears(watched.port, path, callers) as streams:
            lots, rounds = await statements(watched, b"notification\n", streams, write)
    print(f"\n{WRITES} writes, {rounds} rounds of rights: {few} with 1 user, {lots} with {USERS}")
    # Asked in groups over the interval, so that a round holds nothing up.
    assert (lots - few) / rounds < USERS / 10
    assert watched.complaints() == []
