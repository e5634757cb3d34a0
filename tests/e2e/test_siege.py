"""Good clients beside hostile ones, and through a restart: nothing is lost, nobody ends for good.

The long forms print figures: ``uv run pytest -n 0 -s -m soak tests/e2e/test_siege.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from attackers import KINDS, connection
from running import Running
from serving import Server
from siege import EventSource, Siege

from support.postgres import Postgres
from support.until import until

pytestmark = pytest.mark.long

STREAM = "/api/logs/stream?limit=1"


@contextlib.asynccontextmanager
async def following(server: Running, number: int) -> AsyncIterator[list[EventSource]]:
    """So many clients, all of which have begun."""
    clients = [EventSource(server.port, STREAM, server.headers) for _ in range(number)]
    tasks = []
    for at in range(0, number, 100):
        tasks += [asyncio.create_task(client.run()) for client in clients[at : at + 100]]
        await until(lambda at=at: all(c.last_id for c in clients[at : at + 100]), 60.0)
    try:
        yield clients
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Load:
    """Writes log lines and asks for pages, at a pace.

    Attributes:
        written: the messages.
        took: seconds of each request, by phase.
    """

    def __init__(self, server: Running, per_second: float) -> None:
        self._server = server
        self._pause = 1 / per_second
        self.written: list[str] = []
        self.took: dict[str, list[float]] = {}

    async def run(self, phase: str, seconds: float) -> None:
        took = self.took.setdefault(phase, [])
        loop = asyncio.get_running_loop()
        asking: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(
            base_url=self._server.address, headers=self._server.headers, timeout=60
        ) as api:

            async def ask() -> None:
                began = loop.time()
                answer = await api.get("/api/logs?limit=5")
                took.append(loop.time() - began)
                assert answer.status_code == 200, answer.text

            end, turn = loop.time() + seconds, 0
            while loop.time() < end:
                asking.add(asyncio.create_task(ask()))
                if turn % 10 == 0:
                    message = f"line {len(self.written)}"
                    entry = {"entries": [{"source": "t", "message": message}]}
                    (await api.post("/api/logs", json=entry)).raise_for_status()
                    self.written.append(message)
                turn += 1
                await asyncio.sleep(self._pause)  # the pace
            await asyncio.gather(*asking)


def resident(server: Server) -> float:
    """Megabytes of the server's process."""
    with open(f"/proc/{server.process.pid}/status") as file:
        found = next(line for line in file if line.startswith("VmRSS"))
    return int(found.split()[1]) / 1024


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000


async def all_told(clients: list[EventSource], load: Load) -> None:
    """Every client was told every line once, in order, and is still there."""
    await until(lambda: all(client.told[-1:] == load.written[-1:] for client in clients), 60.0)
    assert [client.ended for client in clients] == [0] * len(clients)
    wrong = [client.told for client in clients if client.told != load.written]
    assert not wrong, f"{len(wrong)} of {len(clients)}, such as {wrong[0][:5]} …"


async def besiege(
    server: Running,
    hostile: int,
    good: int,
    rate: float,
    seconds: float,
    pause: float,
    alone: float,
) -> None:
    load = Load(server, rate)
    long = {"entries": [{"source": "t", "message": "x" * 8000} for _ in range(100)]}
    await asyncio.to_thread(server.post, "/api/logs", long)
    async with following(server, good) as clients:
        await load.run("alone", alone)
        before = resident(server)
        siege = Siege(server, hostile, pause)
        peak = before
        try:
            await siege.begin()
            for _ in range(10):
                await load.run("besieged", seconds / 10)
                peak = max(peak, resident(server))
            await all_told(clients, load)
        finally:
            visits = await siege.end()
        await load.run("after", alone)
        await all_told(clients, load)
        assert sum(client.opened for client in clients) == good, "a stream was cut off"
        print(  # noqa: T201 - the figures of the long form
            f"\n{hostile} hostile, {good} good streams, {rate:g} requests/s, {seconds:g} s:",
            *(
                f"{phase}: p50 {percentile(took, 0.5):.0f} ms, p99 {percentile(took, 0.99):.0f} ms"
                for phase, took in load.took.items()
            ),
            f"memory {before:.0f} MB before, {peak:.0f} MB at most",
            f"visits {visits}",
            sep="\n  ",
        )
    assert peak < before + 300, f"{before:.0f} MB became {peak:.0f} MB"


async def test_good_clients_beside_hostile_ones(running: Running):
    await besiege(running, 5 * len(KINDS), 20, 20, 1.0, pause=0.5, alone=0.5)
    assert running.complaints() == []


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_five_thousand_hostile_clients(running: Running):
    """As the operator of a public server meets them, for five minutes."""
    await besiege(running, 5000, 500, 50, 300.0, pause=60.0, alone=60.0)
    assert running.complaints() == []


async def leave(port: int, request: bytes) -> None:
    """Ask, and reset the connection a moment later."""
    async with connection(port) as (_, writer):
        writer.write(request)
        await asyncio.sleep(0.01)  # the request is under way


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_requests_that_are_left_leave_no_memory(tmp_path: Path, postgres: Postgres):
    """What they leave in cycles must not pile up until a collection that seldom comes."""
    database = f"postgresql://postgres@/{postgres.database()}?host={postgres.folder}"
    server = Server(tmp_path, database)
    try:
        await asyncio.to_thread(server.seed)
        await asyncio.to_thread(server.log, *(f"line {n}" for n in range(50)))
        lines = [f"{name}: {value}" for name, value in server.api.headers.items()]
        asked = "\r\n".join(["GET /api/logs HTTP/1.1", "Host: x", *lines, "", ""]).encode()
        sizes = []
        for _ in range(11):
            for _ in range(20):
                await asyncio.gather(*(leave(server.port, asked) for _ in range(100)))
            sizes.append(resident(server))
        print(f"\n22,000 left requests: {', '.join(f'{size:.0f}' for size in sizes)} MB")  # noqa: T201
        assert sizes[-1] < sizes[0] + 60
    finally:
        server.close()


async def restart(server: Running, number: int, lines: int) -> list[EventSource]:
    """End a server in order while clients follow and lines are written, and start it again."""
    async with following(server, number) as clients:
        load = Load(server, 50)
        began = time.monotonic()
        await load.run("before", 1.0)
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        down = [f"sql {n}" for n in range(lines)]
        await asyncio.to_thread(server.insert, *down)
        load.written += down
        await asyncio.to_thread(server.start)
        await load.run("after", 1.0)
        await all_told(clients, load)
        assert [client.resets for client in clients] == [0] * number
        print(f"\n{number} streams, {time.monotonic() - began:.1f} s in all")  # noqa: T201
    return clients


async def test_a_restart_ends_no_client_for_good(running: Running):
    """A browser's EventSource comes back only if each answer is one that it comes back from."""
    clients = await restart(running, 30, 20)
    assert min(client.opened for client in clients) >= 2
    assert running.complaints() == []


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_restart_with_two_thousand_streams(running: Running):
    clients = await restart(running, 2000, 500)
    assert min(client.opened for client in clients) >= 2
    # Of two thousand clients some may close their end after the server's patience.
    late = "timeout graceful shutdown exceeded"
    assert [line for line in running.complaints() if late not in line] == []
