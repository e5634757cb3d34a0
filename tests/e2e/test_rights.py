"""Who loses a right loses the open streams at once, also when another process took it away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from running import Person, Running

from support.http import Answer, request
from support.until import until

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def pair(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Two servers on one database. Rights are asked again rarely: what ends streams is the word."""
    folder = tmp_path_factory.mktemp("pair")
    servers = [Running(seeded, folder, recheck_seconds=30) for _ in range(2)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.close()


@pytest.fixture(params=["the same process", "another process"])
def other(request: pytest.FixtureRequest, pair: list[Running]) -> Running:
    """Where the right is taken away; the streams are at the first."""
    return pair[0] if request.param == "the same process" else pair[1]


KEYS = "/api/users/me/api-keys"

names = iter(f"person-{number}" for number in range(1000))


@contextlib.asynccontextmanager
async def streams(
    server: Running, paths: list[str], headers: dict[str, str]
) -> AsyncIterator[list[Answer]]:
    """Streams that have begun."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for path in paths:
            answer = await stack.enter_async_context(request(server.port, path, headers=headers))
            assert answer.status == 200, await answer.body()
            assert (await answer.next()).event == "snapshot"
            found.append(answer)
        yield found


def feeds(server: Running) -> list[str]:
    """The five feeds' streams, as of a member of the team."""
    return [
        "/api/logs/stream",
        "/api/notifications/stream",
        f"/api/teams/{server.team_id}/notifications/stream",
        f"/api/users/me/mcp/client-activity/stream?team_id={server.team_id}",
        f"/api/satellites/{server.satellite_id}/metrics/stream",
    ]


async def ends_with(answer: Answer, status: int) -> None:
    """The stream's last event is an error without an id, then it is closed."""
    before = len(answer.raw)
    told = await answer.rest()
    assert [(m.event, json.loads(m.data)) for m in told] == [("error", {"status": status})]
    assert b"id:" not in answer.raw[before:]


def log_out(server: Running, person: Person) -> None:
    client = server.client(Cookie=f"session={person.api.cookies['session']}")
    client.post("/api/auth/logout").raise_for_status()


def disable(server: Running, person: Person) -> None:
    server.api.patch(f"/api/users/{person.id}", json={"disabled": True}).raise_for_status()


@pytest.mark.parametrize("take", [log_out, disable])
async def test_who_is_signed_out_or_disabled_loses_every_stream(
    pair: list[Running], other: Running, take: Callable[[Running, Person], None]
):
    server = pair[0]
    person = await asyncio.to_thread(server.person, next(names))
    await asyncio.to_thread(server.join, person)
    async with streams(server, feeds(server), person.headers) as open_:
        await asyncio.to_thread(take, other, person)
        for answer in open_:
            await ends_with(answer, 401)
    async with request(server.port, "/api/logs/stream", headers=person.headers) as answer:
        assert answer.status == 401


async def test_a_deleted_key_ends_its_own_streams_alone(pair: list[Running], other: Running):
    server = pair[0]
    person = await asyncio.to_thread(server.person, next(names))
    keys = [person.api.post(KEYS, json={"name": name}).json() for name in ("lost", "kept")]
    lost, kept = ({"Authorization": f"Bearer {key['api_key']}"} for key in keys)
    async with (
        streams(server, ["/api/logs/stream"] * 3, lost) as ended,
        streams(server, ["/api/logs/stream"], kept) as going_on,
    ):
        client = other.client(**kept)
        await asyncio.to_thread(client.delete, f"{KEYS}/{keys[0]['id']}")
        for answer in ended:
            await ends_with(answer, 401)
        entry = {"entries": [{"message": "still here"}]}
        await asyncio.to_thread(person.api.post, "/api/logs", json=entry)
        assert (await going_on[0].next()).event == "log"


async def test_a_key_that_is_deleted_while_its_stream_opens(pair: list[Running], other: Running):
    """Between the look at the rights and the first event there are moments too."""
    server = pair[0]
    person = await asyncio.to_thread(server.person, next(names))
    rng = random.Random(3)
    for _ in range(30):
        key = (await asyncio.to_thread(person.api.post, KEYS, json={"name": "short"})).json()
        headers = {"Authorization": f"Bearer {key['api_key']}"}
        client = other.client(**headers)
        async with contextlib.AsyncExitStack() as stack:
            gone = asyncio.create_task(asyncio.to_thread(client.delete, f"{KEYS}/{key['id']}"))
            for _ in range(rng.randrange(30)):
                await asyncio.sleep(0)
            opening = request(server.port, "/api/logs/stream", headers=headers)
            answer = await stack.enter_async_context(opening)
            assert (await gone).status_code == 204
            if answer.status == 200:
                told = await answer.rest()
                assert [m.event for m in told] in (["snapshot", "error"], ["error"])
            else:
                assert answer.status == 401


async def test_who_leaves_a_team_loses_its_streams_and_keeps_the_others(
    pair: list[Running], other: Running
):
    server = pair[0]
    person = await asyncio.to_thread(server.person, next(names))
    await asyncio.to_thread(server.join, person)
    member = f"/api/teams/{server.team_id}/members/{person.id}"
    async with streams(server, feeds(server), person.headers) as open_:
        logs, mine, *of_the_team = open_
        (await asyncio.to_thread(other.api.delete, member)).raise_for_status()
        for answer in of_the_team:
            await ends_with(answer, 403)
        # What one's own feed shows has changed: the client is told to come back for it.
        assert await mine.rest() == []
        assert mine.retry is not None
        assert mine.retry < 1000
        await asyncio.to_thread(person.api.post, "/api/logs", json={"entries": [{"message": "x"}]})
        assert (await logs.next()).event == "log"
    # The team's notifications are not seen any more, one's own still are.
    async with streams(server, ["/api/notifications/stream"], person.headers) as (mine,):
        await asyncio.to_thread(other.notify, "not for you", team=True)
        body = {"user_id": person.id, "level": "info", "title": "for you", "body": ""}
        await asyncio.to_thread(other.post, "/api/notifications", body)
        assert json.loads((await mine.next()).data)["title"] == "for you"


async def test_who_joins_a_team_is_shown_its_notifications(pair: list[Running], other: Running):
    server = pair[0]
    person = await asyncio.to_thread(server.person, next(names))
    async with streams(server, ["/api/notifications/stream"], person.headers) as (mine,):
        await asyncio.to_thread(other.join, person)
        assert await mine.rest() == []
    async with streams(server, ["/api/notifications/stream"], person.headers) as (mine,):
        await asyncio.to_thread(other.notify, "welcome", team=True)
        assert json.loads((await mine.next()).data)["title"] == "welcome"


async def test_a_lost_role_takes_what_it_gave(pair: list[Running], other: Running):
    """An admin sees every team; who is none any more does not know of them."""
    server = pair[0]
    person = await asyncio.to_thread(server.person, next(names), "global_admin")
    async with streams(server, feeds(server), person.headers) as open_:
        logs, mine, *of_the_team = open_
        path = f"/api/users/{person.id}"
        (
            await asyncio.to_thread(other.api.patch, path, json={"role": "global_user"})
        ).raise_for_status()
        for answer in of_the_team:
            await ends_with(answer, 403)
        for answer, title in ((logs, "logs"), (mine, "notifications")):
            assert not answer.ended, title
        await asyncio.to_thread(person.api.post, "/api/logs", json={"entries": [{"message": "x"}]})
        assert (await logs.next()).event == "log"


@pytest.mark.parametrize("what", ["team", "user", "satellite"])
async def test_what_is_removed_takes_streams_and_polls_along(
    pair: list[Running], other: Running, what: str
):
    server = pair[0]
    person = await asyncio.to_thread(server.person, next(names))
    team = await asyncio.to_thread(server.post, "/api/teams", {"name": next(names)})
    await asyncio.to_thread(server.join, person, team["id"])
    made = {"name": next(names), "team_id": team["id"]}
    satellite = await asyncio.to_thread(server.post, "/api/satellites", made)
    metrics = f"/api/satellites/{satellite['id']}/metrics"
    paths = {
        "team": [f"/api/teams/{team['id']}/notifications", metrics],
        "user": ["/api/logs", "/api/notifications", metrics],
        "satellite": [metrics],
    }[what]
    gone = {"team": team["id"], "user": person.id, "satellite": satellite["id"]}[what]
    status = 401 if what == "user" else 403

    async def poll(path: str) -> int:
        path += "?wait=30"
        async with request(server.port, path, headers=person.headers) as answer:
            return answer.status

    async with streams(server, [f"{path}/stream" for path in paths], person.headers) as open_:
        waiting = server.measured("headwater_streams_waiting")
        polls = [asyncio.create_task(poll(path)) for path in paths]
        await until(lambda: server.measured("headwater_streams_waiting") == waiting + len(polls))
        (await asyncio.to_thread(other.api.delete, f"/api/{what}s/{gone}")).raise_for_status()
        assert await asyncio.gather(*polls) == [status] * len(polls)
        for answer in open_:
            await ends_with(answer, status)


async def test_a_right_taken_away_with_plain_sql_is_noticed_at_the_next_look(
    seeded: Path, tmp_path: Path
):
    """Nobody was told: the rights are asked again every so often."""
    server = Running(seeded, tmp_path, recheck_seconds=0.5)
    with contextlib.closing(server):
        await asyncio.to_thread(server.start)
        person = await asyncio.to_thread(server.person, "ann")
        await asyncio.to_thread(server.join, person)
        async with streams(server, feeds(server)[2:], person.headers) as open_:
            server.execute("DELETE FROM team_members WHERE user_id = ?", person.id)
            for answer in open_:
                await ends_with(answer, 403)
        async with streams(server, feeds(server)[:2], person.headers) as open_:
            server.execute("DELETE FROM users WHERE id = ?", person.id)
            for answer in open_:
                await ends_with(answer, 401)
        assert server.measured("headwater_streams_denied_total") == 5
        assert server.complaints() == []


def test_nothing_went_wrong_meanwhile(pair: list[Running]):
    assert [server.complaints() for server in pair] == [[], []]
