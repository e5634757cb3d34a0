"""The backend with its events on a server of their own, and two workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Running

from headwater.protocol import Decoder
from support.nats import Nats
from support.until import outside, succeeds
from support.valkey import Valkey

pytestmark = pytest.mark.long


@pytest.fixture(params=[Valkey, pytest.param(Nats, marks=pytest.mark.soak)], ids=["redis", "nats"])
def engine(request: Any, tmp_path: Path) -> Iterator[Valkey | Nats]:
    server = request.param(tmp_path / "engine")
    asyncio.run(server.start())
    yield server
    server.kill()


@pytest.fixture
def served(engine: Valkey | Nats, seeded: Path, tmp_path: Path) -> Iterator[Running]:
    folder = tmp_path / "headwater"
    folder.mkdir()
    server = Running(seeded, folder, workers=2, event_log=engine.url)
    try:
        server.start()
        yield server
    finally:
        server.close()


@asynccontextmanager
async def a_connection_to_each(server: Running) -> AsyncIterator[list[httpx.AsyncClient]]:
    """One connection, and so one worker, for each client."""
    async with AsyncExitStack() as stack:
        found: dict[str, httpx.AsyncClient] = {}
        for _ in range(200):
            one = await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=server.address, limits=httpx.Limits(max_connections=1), timeout=30
                )
            )
            text = (await one.get("/metrics")).text
            found.setdefault(text.split('headwater_info{worker="')[1].split('"')[0], one)
            if len(found) == 2:
                yield list(found.values())
                return
        raise AssertionError("all connections came to one worker")


class Stream:
    """The metrics that one stream has shown so far."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.events: list[str] = []
        self._news = asyncio.Event()

    async def run(self, client: httpx.AsyncClient, server: Running) -> None:
        path = f"/api/satellites/{server.satellite_id}/metrics/stream"
        decoder = Decoder()
        async with client.stream("GET", path, headers=server.headers) as answer:
            assert answer.status_code == 200
            async for chunk in answer.aiter_bytes():
                for message in decoder.feed(chunk):
                    self.events.append(message.event)
                    if message.event == "metrics":
                        self.seen.append(json.loads(message.data)["cpu_percent"])
                self._news.set()

    async def until(self, count: int, events: int = 0) -> None:
        async with asyncio.timeout(30):
            while len(self.seen) < count or len(self.events) < events:
                self._news.clear()
                await self._news.wait()


async def test_metrics_go_through_it_to_the_streams_of_all_workers_and_outlive_its_restart(
    engine: Valkey | Nats, served: Running
) -> None:
    """What any worker takes, the streams of both show once and in order; readiness tells of it."""
    assert served.api.get("/readyz").json()["checks"]["event_log"] == {"status": "up"}
    async with a_connection_to_each(served) as clients:
        streams = [Stream() for _ in clients]
        tasks = [
            asyncio.create_task(stream.run(client, served))
            for stream, client in zip(streams, clients, strict=True)
        ]
        for stream in streams:
            await stream.until(0, events=1)
        for number in range(20):
            await asyncio.to_thread(served.report, number)
        for stream in streams:
            await stream.until(20)
        engine.kill()
        await outside(lambda: served.api.get("/readyz").status_code == 503)
        with pytest.raises(httpx.HTTPStatusError, match="503"):
            await asyncio.to_thread(served.report, 1000)
        assert served.api.get("/api/logs").status_code == 200, "the rest serves meanwhile"
        await engine.start()
        await outside(lambda: served.api.get("/readyz").status_code == 200)
        for number in range(20, 40):
            await asyncio.to_thread(served.report, number)
        for stream in streams:
            await stream.until(40)
            assert stream.seen == list(range(40))
            assert stream.events == ["snapshot"] + ["metrics"] * 40
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_the_backend_starts_before_its_event_log(
    engine: Valkey | Nats, seeded: Path, tmp_path: Path
) -> None:
    """Machines come up in any order: it says that it is not ready, and is once the log is there."""
    engine.stop()
    folder = tmp_path / "headwater"
    folder.mkdir()
    server = Running(seeded, folder, event_log=engine.url)
    try:
        started = asyncio.create_task(asyncio.to_thread(server.start))
        async with httpx.AsyncClient(base_url=server.address) as client:
            asked = partial(client.get, "/readyz")
            answer = await succeeds(asked, httpx.TransportError, patience=40)
            assert answer.status_code == 503
            assert answer.json()["checks"]["event_log"]["status"] == "down"
            await outside(
                lambda: (
                    httpx.get(f"{server.address}/readyz").json()["checks"]["database"]["status"]
                    == "up"
                ),
                40,
            )
        await engine.start()
        await started
        await asyncio.to_thread(server.report, 1)
    finally:
        await asyncio.to_thread(server.close)
