"""How long a stream and a waiting request outlive their right, and that nothing comes after it.

The long form prints figures: ``uv run pytest -n 0 -s -m soak tests/e2e/test_right_trials.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Person, Running

from support.http import request
from support.until import until

pytestmark = pytest.mark.long

names = (f"trial-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def pair(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Two processes on one database, whose own looks at the rights come too late to matter."""
    folder = tmp_path_factory.mktemp("trials")
    servers = [Running(seeded, folder, recheck_seconds=30) for _ in range(2)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.close()


class Trial:
    """A person with a team, a satellite and a key of their own, and one way to lose a right.

    Attributes:
        path: the REST half of a feed that stands on the right.
        status: how it ends.
        headers: the person's.
        take: takes the right away.
    """

    def __init__(self, server: Running, other: Running, kind: str) -> None:
        self.person: Person = server.person(next(names))
        self.headers = self.person.headers
        self.path, self.status = "/api/logs", 401
        self.take: Callable[[], object] = lambda: None
        getattr(self, kind)(server, other)

    def sign_out(self, _: Running, other: Running) -> None:
        client = other.client(**self.headers)
        self.take = lambda: client.post("/api/auth/logout").raise_for_status()

    def disabled(self, _: Running, other: Running) -> None:
        path = f"/api/users/{self.person.id}"
        self.take = lambda: other.api.patch(path, json={"disabled": True}).raise_for_status()

    def removed_user(self, _: Running, other: Running) -> None:
        path = f"/api/users/{self.person.id}"
        self.take = lambda: other.api.delete(path).raise_for_status()

    def deleted_key(self, _: Running, other: Running) -> None:
        keys = "/api/users/me/api-keys"
        key = self.person.api.post(keys, json={"name": "k"}).raise_for_status().json()
        client = other.client(**self.headers)
        self.headers = {"Authorization": f"Bearer {key['api_key']}"}
        self.take = lambda: client.delete(f"{keys}/{key['id']}").raise_for_status()

    def lost_membership(self, server: Running, other: Running) -> None:
        team = self._team(server)
        member = f"/api/teams/{team}/members/{self.person.id}"
        self.take = lambda: other.api.delete(member).raise_for_status()

    def removed_team(self, server: Running, other: Running) -> None:
        team = self._team(server)
        self.take = lambda: other.api.delete(f"/api/teams/{team}").raise_for_status()

    def removed_satellite(self, server: Running, other: Running) -> None:
        team = self._team(server)
        made = server.post("/api/satellites", {"name": next(names), "team_id": team})
        self.path = f"/api/satellites/{made['id']}/metrics"
        self.take = lambda: other.api.delete(f"/api/satellites/{made['id']}").raise_for_status()

    def lost_role(self, server: Running, other: Running) -> None:
        team = server.post("/api/teams", {"name": next(names)})["id"]
        path = f"/api/users/{self.person.id}"
        server.api.patch(path, json={"role": "global_admin"}).raise_for_status()
        self.path, self.status = f"/api/teams/{team}/notifications", 403
        self.take = lambda: other.api.patch(path, json={"role": "global_user"}).raise_for_status()

    def _team(self, server: Running) -> str:
        team = server.post("/api/teams", {"name": next(names)})["id"]
        server.join(self.person, team)
        self.path, self.status = f"/api/teams/{team}/notifications", 403
        return str(team)


KINDS = (
    *("sign_out", "disabled", "removed_user", "deleted_key"),
    *("lost_membership", "removed_team", "removed_satellite", "lost_role"),
)


async def outlived(server: Running, trial: Trial, kind: str) -> float:
    """Seconds from the answer that the right is gone to the last byte; nothing came after it."""
    if kind == "poll":
        waiting = server.measured("headwater_streams_waiting")
        asked = asyncio.create_task(poll(server, trial))
        await until(lambda: server.measured("headwater_streams_waiting") > waiting)
        gone = await taken(trial)
        status, at = await asked
        assert status == trial.status
        return at - gone
    path = f"{trial.path}/stream"
    async with request(server.port, path, headers=trial.headers) as answer:
        assert answer.status == 200
        assert (await answer.next()).event == "snapshot"
        gone = await taken(trial)
        told = await answer.rest()
        at = asyncio.get_running_loop().time()
        assert [(m.event, json.loads(m.data)) for m in told] == [
            ("error", {"status": trial.status})
        ]
    return at - gone


async def poll(server: Running, trial: Trial) -> tuple[int, float]:
    async with request(server.port, f"{trial.path}?wait=30", headers=trial.headers) as answer:
        await answer.body()
        return answer.status, asyncio.get_running_loop().time()


async def taken(trial: Trial) -> float:
    await asyncio.to_thread(trial.take)
    return asyncio.get_running_loop().time()


async def run(pair: list[Running], number: int) -> list[float]:
    """So many trials in random order, all of them different ones first."""
    every = list(itertools.product(KINDS, ("stream", "poll"), (0, 1)))
    random.Random(number).shuffle(every)
    took = []
    for kind, what, where in itertools.islice(itertools.cycle(every), number):
        trial = await asyncio.to_thread(Trial, pair[0], pair[where], kind)
        took.append(await outlived(pair[0], trial, what))
    with contextlib.suppress(IndexError):
        ranked = sorted(took)
        print(  # noqa: T201 - the figures of the long form
            f"\n{number} trials: p50 {ranked[number // 2] * 1000:.0f} ms, "
            f"p99 {ranked[number * 99 // 100] * 1000:.0f} ms, max {ranked[-1] * 1000:.0f} ms"
        )
    return took


async def test_a_right_that_is_lost_ends_what_stands_on_it(pair: list[Running]):
    """Whatever the right, the response and the process; with nothing after it."""
    assert len(await run(pair, 4)) == 4
    assert [server.complaints() for server in pair] == [[], []]


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_five_hundred_rights_are_lost(pair: list[Running]):
    took = await run(pair, 500)
    assert max(took) < 1.0
    assert [server.complaints() for server in pair] == [[], []]
