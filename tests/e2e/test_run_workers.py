"""Runs on two worker processes, over HTTP: whichever worker a request reaches."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from headwater.protocol import Decoder
from support.nats import Nats
from support.postgres import Postgres
from support.processes import Program
from support.until import outside
from support.valkey import Valkey

HERE = Path(__file__).parent
ENGINES = ("sqlite", "postgresql", "redis", "nats")

pytestmark = pytest.mark.long


class Worker(Program):
    """One process of the application."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._url = url

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        words = ["-m", "uvicorn", "run_worker:app", "--log-level", "warning"]
        return [
            *("env", f"LOG={self._url}", f"PYTHONPATH={paths}"),
            *(sys.executable, *words, "--port", str(self.port)),
        ]


class Workers:
    """Two workers of one log, and a client that asks either.

    Attributes:
        http: without a time limit, since it follows.
    """

    def __init__(self, both: Sequence[Worker], http: httpx.AsyncClient) -> None:
        self.both = both
        self.http = http

    async def start(self, body: dict[str, Any], at: int = 0, **headers: str) -> httpx.Response:
        """POST to one of them."""
        path = f"{self.both[at].address}/api/works"
        return await self.http.post(path, json=body, headers=headers)

    def at(self, location: str, worker: int | None = None) -> str:
        """The address of a run at one of them, or at any."""
        one = random.choice(self.both) if worker is None else self.both[worker]
        return one.address + location

    async def follow(self, location: str, worker: int | None = None) -> list[Any]:
        """A run's events to their end, in one connection."""
        return [event async for event in self.events(self.at(location, worker))]

    async def events(self, address: str, last: str = "") -> AsyncIterator[Any]:
        """The events of a run after a position."""
        headers = {"Last-Event-ID": last} if last else {}
        decoder = Decoder()
        async with self.http.stream("GET", f"{address}/stream", headers=headers) as answer:
            assert answer.status_code == 200, answer.status_code
            async for part in answer.aiter_bytes():
                for event in decoder.feed(part):
                    yield event


@asynccontextmanager
async def storage(engine: str, folder: Path) -> AsyncIterator[str]:
    if engine == "sqlite":
        yield f"sqlite:///{folder}/log.db"
        return
    if engine == "postgresql":
        server = Postgres()
        try:
            server.create()
            server.start()
            yield server.url(server.database())
        finally:
            server.remove()
        return
    program = Valkey(folder / "engine") if engine == "redis" else Nats(folder / "engine")
    await program.start()
    try:
        yield program.url
    finally:
        program.stop()


@pytest.fixture
async def workers(engine: str, tmp_path: Path) -> AsyncIterator[Workers]:
    async with storage(engine, tmp_path) as url:
        both = [Worker(tmp_path / name, url) for name in ("a", "b")]
        limits = httpx.Limits(max_connections=None)
        try:
            for one in both:
                await one.start()
            async with httpx.AsyncClient(timeout=None, limits=limits) as http:
                yield Workers(both, http)
        except BaseException:
            print(*(one.log for one in both))
            raise
        finally:
            for one in both:
                one.stop()


def sizes(small: tuple[Any, ...], large: tuple[Any, ...]) -> list[Any]:
    """A short form on SQLite, and the whole one on each engine."""
    soak = [pytest.param(one, *large, marks=pytest.mark.soak) for one in ENGINES]
    return [pytest.param("sqlite", *small), *soak]


class Follower:
    """A client that keeps what it is sent, and cuts its connection at random."""

    def __init__(self, workers: Workers, location: str, cuts: int) -> None:
        self.text = ""
        self.marks: list[int] = []
        self.ends: list[Any] = []
        self.cuts = cuts
        self._workers = workers
        self._location = location
        self._last = ""

    async def follow(self) -> None:
        """Follow to the end, at any worker, over as many connections as it takes."""
        while not self.ends:
            left = random.randint(1, 6) if self.cuts > 0 else sys.maxsize
            async for event in self._workers.events(self._workers.at(self._location), self._last):
                if event.event == "run":
                    continue
                if event.event == "delta":
                    self.text += event.json()["text"]
                elif event.event == "mark":
                    self.marks.append(event.json())
                else:
                    self.ends.append((event.event, event.json()))
                self._last = event.last_event_id
                left -= 1
                if not left:
                    break
            self.cuts -= 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("engine", "followers", "cuts", "words"), sizes((6, 5, 300), (100, 10, 3000))
)
async def test_nothing_is_lost_doubled_or_reordered(
    workers: Workers, followers: int, cuts: int, words: int
) -> None:
    """Whichever worker a client comes back to, and whenever it was cut."""
    location = (await workers.start({"words": words})).headers["location"]
    clients = [Follower(workers, location, cuts) for _ in range(followers)]
    await asyncio.gather(*(client.follow() for client in clients))
    for client in clients:
        assert client.text == "".join(f"{n} " for n in range(words))
        assert client.marks == list(range(0, words, 7))
        assert client.ends == [("end", {"state": "done"})]
        assert client.cuts < 0 or not cuts, "it was not cut so often"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("engine", "races"), sizes((30,), (1000,)))
async def test_races_of_the_end_and_cancelling_at_the_other_worker(
    workers: Workers, races: int
) -> None:
    """One end each, the same for the followers of both workers."""
    states: list[str] = []

    async def race() -> None:
        begun = await workers.start({"seconds": 0.4})
        location = begun.headers["location"]
        both = [asyncio.create_task(workers.follow(location, one)) for one in (0, 1)]
        await asyncio.sleep(random.uniform(0, 0.4))  # about when it ends
        answer = await workers.http.post(workers.at(location, 1) + "/cancel")
        assert answer.status_code in (200, 202)
        found = [[each.json() for each in await one if each.event == "end"] for one in both]
        assert found[0] == found[1] and len(found[0]) == 1, found
        state = (await workers.http.get(workers.at(location))).json()["state"]
        assert found[0] == [{"state": state}]
        assert answer.status_code == 202 or answer.json()["state"] == state
        states.append(state)

    for start in range(0, races, 10):
        await asyncio.gather(*(race() for _ in range(min(10, races - start))))
    counts = {state: states.count(state) for state in set(states)}
    print(f"{races} races: {counts}")
    assert counts.keys() <= {"done", "cancelled"}
    assert races < 100 or len(counts) == 2, "they were no races"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("engine", "rounds"), sizes((1,), (20,)))
async def test_fifty_starts_at_once_at_both_workers(workers: Workers, rounds: int) -> None:
    """With one key they are one run; with keys of their own one run of a room is active."""
    for n in range(rounds):
        same = {"Idempotency-Key": f"same-{n}"}
        made = await asyncio.gather(
            *(workers.start({"seconds": 0.1}, at=one % 2, **same) for one in range(50))
        )
        assert {each.status_code for each in made} == {202}
        (location,) = {each.headers["location"] for each in made}
        other = await workers.start({"seconds": 0.2}, **same)
        assert other.status_code == 422, "another body"
        ends = [one.event for one in await workers.follow(location)]
        assert ends == ["run", "end"], "it was executed once"

        room = {"seconds": 60, "room": f"room-{n}"}
        made = await asyncio.gather(
            *(
                workers.start(room, at=one % 2, **{"Idempotency-Key": f"own-{n}-{one}"})
                for one in range(50)
            )
        )
        assert sorted(each.status_code for each in made) == [202] + [409] * 49
        (begun,) = [each for each in made if each.status_code == 202]
        assert {each.json()["run"]["id"] for each in made if each.status_code == 409} == {
            begun.json()["id"]
        }
        location = begun.headers["location"]
        assert (await workers.http.post(workers.at(location) + "/cancel")).status_code == 202
        assert (await workers.follow(location))[-1].json() == {"state": "cancelled"}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("engine", ["sqlite"])
async def test_a_worker_that_is_asked_to_end_says_at_once_what_becomes_of_its_runs(
    workers: Workers,
) -> None:
    """A deployment in the middle of an answer: nobody waits for a lease."""
    begun = await workers.start({"words": 10, "seconds": 60})
    location = begun.headers["location"]
    following = asyncio.create_task(workers.follow(location, 1))
    address = workers.at(location, 1)
    await outside(lambda: _has(workers, address, "running"))
    asked = time.monotonic()
    stopping = asyncio.create_task(asyncio.to_thread(workers.both[0].stop))
    events = await following
    assert events[-1].json() == {"state": "lost"}
    assert time.monotonic() - asked < 10, "the lease is 30 s"
    await stopping
    again = await workers.http.get(
        f"{address}/stream", headers={"Last-Event-ID": events[-1].last_event_id}
    )
    assert again.status_code == 204
    assert "stopped" in (await workers.http.get(address)).json()["error"]
    assert (await workers.http.delete(address)).status_code == 204


async def _has(workers: Workers, address: str, state: str) -> bool:
    return bool((await workers.http.get(address)).json()["state"] == state)
