"""Several workers on one socket: to a client they are one server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from running import Running
from scenario import Scenario

from support.http import Answer

pytestmark = pytest.mark.long

CONNECTIONS = 400


@pytest.fixture(scope="module")
def two(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for the whole module: two workers take seconds to start."""
    server = Running(seeded, tmp_path_factory.mktemp("two"), workers=2)
    try:
        server.start()
        yield server
    finally:
        server.close()


class Line:
    """One connection, and so one worker, for one request after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(
        self, path: str, headers: dict[str, str], body: Any = None, method: str = "GET"
    ) -> Answer:
        """Send a request; the answer's head has been read, its body not."""
        data = b"" if body is None else json.dumps(body).encode()
        all_ = {"Host": "127.0.0.1", "Content-Type": "application/json", **headers}
        lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in all_.items()]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        answer = Answer(self._reader, self._writer)
        async with asyncio.timeout(10):
            await answer.read_head()
        return answer

    async def worker(self) -> str:
        """The process that has this connection."""
        text = (await (await self.ask("/metrics", {})).body()).decode()
        return text.split('headwater_info{worker="')[1].split('"')[0]

    def close(self) -> None:
        self._writer.transport.abort()


@contextlib.asynccontextmanager
async def lines_to_each(server: Running, workers: int) -> AsyncIterator[list[Line]]:
    """A connection to each worker, twice."""
    found: dict[str, list[Line]] = {}
    opened: list[Line] = []
    try:
        for _ in range(CONNECTIONS):
            line = Line(*await asyncio.open_connection("127.0.0.1", server.port))
            opened.append(line)
            same = found.setdefault(await line.worker(), [])
            if len(same) < 2:
                same.append(line)
            if sorted(map(len, found.values())) == [2] * workers:
                yield [line for lines in found.values() for line in lines]
                return
        raise AssertionError(f"{CONNECTIONS} connections came to {len(found)} workers")
    finally:
        for line in opened:
            line.close()


async def test_streams_across_workers_have_each_entry_once_in_one_order(two: Running):
    """First, because its truth is all there is."""
    async with asyncio.timeout(60):
        await Scenario(two, entries=800, streams=10, leaves=10).play()
    assert two.complaints() == []


async def test_what_one_worker_takes_reaches_the_streams_of_all(two: Running):
    async with lines_to_each(two, 2) as (stream_a, post_a, stream_b, post_b):
        streams = [await line.ask("/api/logs/stream", two.headers) for line in (stream_a, stream_b)]
        for stream in streams:
            assert (await stream.next()).event == "snapshot"
        for number, line in enumerate((post_a, post_b, post_a, post_b)):
            entries = [{"message": f"{number}-{row}"} for row in range(3)]
            answer = await line.ask("/api/logs", two.headers, {"entries": entries}, "POST")
            assert answer.status == 201, await answer.body()
            await answer.body()
        told = [
            [json.loads((await stream.next()).data)["message"] for _ in range(12)]
            for stream in streams
        ]
    assert told[0] == told[1] == [f"{number}-{row}" for number in range(4) for row in range(3)]
    assert two.complaints() == []


async def test_metrics_of_the_event_log_reach_the_streams_of_all(two: Running):
    path = f"/api/satellites/{two.satellite_id}/metrics"
    async with lines_to_each(two, 2) as (stream_a, post_a, stream_b, post_b):
        streams = [await line.ask(f"{path}/stream", two.headers) for line in (stream_a, stream_b)]
        for stream in streams:
            assert (await stream.next()).event == "snapshot"
        for number, line in enumerate((post_a, post_b)):
            report = {
                "cpu_percent": number,
                "memory_mb": 1,
                "requests_per_s": 0,
                "errors_per_s": 0,
            }
            answer = await line.ask(path, two.satellite_headers, {"reports": [report]}, "POST")
            assert answer.status == 201, await answer.body()
            await answer.body()
        for stream in streams:
            told = [json.loads((await stream.next()).data)["cpu_percent"] for _ in range(2)]
            assert told == [0, 1]


async def test_a_position_of_one_worker_is_good_at_the_other(two: Running):
    async with lines_to_each(two, 2) as (stream_a, _, stream_b, post_b):
        first = await stream_a.ask("/api/logs/stream", two.headers)
        position = (await first.next()).last_event_id
        stream_a.close()
        answer = await post_b.ask(
            "/api/logs", two.headers, {"entries": [{"message": "while away"}]}, "POST"
        )
        assert answer.status == 201
        await answer.body()
        resumed = await stream_b.ask(f"/api/logs/stream?after={quote(position)}", two.headers)
        told = await resumed.next()
        assert (told.event, json.loads(told.data)["message"]) == ("log", "while away")


async def test_a_session_that_ends_at_one_worker_ends_its_streams_at_all(two: Running):
    person = await asyncio.to_thread(two.person, "ann")
    async with lines_to_each(two, 2) as (stream_a, post_a, stream_b, _):
        streams = [
            await line.ask("/api/logs/stream", person.headers) for line in (stream_a, stream_b)
        ]
        for stream in streams:
            assert (await stream.next()).event == "snapshot"
        headers = {**person.headers, "Origin": two.address, "Host": two.address.split("//")[1]}
        answer = await post_a.ask("/api/auth/logout", headers, method="POST")
        assert answer.status == 204, await answer.body()
        for stream in streams:
            told = await stream.rest()
            assert [(m.event, json.loads(m.data)) for m in told] == [("error", {"status": 401})]


async def test_each_worker_lists_and_closes_the_streams_of_all(two: Running):
    async with lines_to_each(two, 2) as (stream_a, ask_a, stream_b, ask_b):
        streams = [await line.ask("/api/logs/stream", two.headers) for line in (stream_a, stream_b)]
        for stream in streams:
            await stream.next()
        for line in (ask_a, ask_b):
            answer = await line.ask("/api/streams", two.headers)
            found = json.loads(await answer.body())
            assert len(set(found["workers"])) == 2
            assert {each["worker"] for each in found["streams"]} == set(found["workers"])
        for each in found["streams"]:
            answer = await ask_a.ask(f"/api/streams/{each['id']}", two.headers, method="DELETE")
            assert answer.status == 204, await answer.body()
        for stream in streams:
            assert await stream.rest() == []
    assert two.complaints() == []


async def test_workers_end_in_order(two: Running):
    """Last, because nothing runs after it."""
    async with lines_to_each(two, 2) as (stream_a, _, stream_b, _):
        streams = [await line.ask("/api/logs/stream", two.headers) for line in (stream_a, stream_b)]
        for stream in streams:
            await stream.next()
        assert two.complaints() == []
        two.process.terminate()
        for stream in streams:
            assert await stream.rest() == []
            assert stream.retry != 2000
    assert await asyncio.to_thread(two.process.wait, 20) == 0
    assert two.complaints() == []
