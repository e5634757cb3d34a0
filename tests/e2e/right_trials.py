"""Rights that are lost while a stream or a waiting request stands on them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Callable

from running import Person, Running

from support.http import request
from support.until import until

__all__ = ["lose_rights"]

names = (f"trial-{number}" for number in itertools.count())


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
    host = server.api.base_url.host
    async with request(server.port, path, host=host, headers=trial.headers) as answer:
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
    path, host = f"{trial.path}?wait=30", server.api.base_url.host
    async with request(server.port, path, host=host, headers=trial.headers) as answer:
        await answer.body()
        return answer.status, asyncio.get_running_loop().time()


async def taken(trial: Trial) -> float:
    await asyncio.to_thread(trial.take)
    return asyncio.get_running_loop().time()


async def lose_rights(pair: list[Running], number: int) -> list[float]:
    """So many trials in random order, all of them different ones first.

    The streams are at the first server, and the right is taken at it or at the second. Returns the
    seconds that each outlived its right.
    """
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
