"""Streams end at once when their right is lost, whichever process changed it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, select, update

from headwater.backend.access import record_access_change_in_team
from headwater.backend.models import AccessChange, Session
from headwater.backend.times import utc_now
from support.backend import PASSWORD, Person, World, cheap, listening, running
from support.http import request
from support.until import until

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
async def other(served, settings) -> World:
    """Another process on the same database."""
    async with running(cheap(Path(), database=settings.database)) as found:
        yield found


class Statements:
    """What one engine is asked, without what follows tables by itself."""

    def __init__(self, world: World) -> None:
        self.about_sessions = 0
        database = world.backend.database
        event.listen(database.engine.sync_engine, "before_cursor_execute", self._see)
        if database.is_sqlite:
            # Look-ups have a connection of their own, which no event of the engine tells of.
            rows = database.direct.rows

            async def seen(statement: str, parameters=()):
                self._see(None, None, statement)
                return await rows(statement, parameters)

            database.direct.rows = seen

    def _see(self, _connection, _cursor, statement: str, *_) -> None:
        self.about_sessions += "FROM sessions" in statement

    def since(self) -> int:
        """How many there were since this was asked last."""
        found, self.about_sessions = self.about_sessions, 0
        return found


@asynccontextmanager
async def following(port: int, path: str, **headers: str):
    async with request(port, path, headers={**STREAM, **headers}) as answer:
        assert answer.status == 200
        assert (await answer.next()).event == "snapshot"
        yield answer


async def ended(answer) -> int:
    """The status that a stream ends with."""
    async with asyncio.timeout(20):
        *_, last = await answer.rest()
    assert last.event == "error"
    return int(json.loads(last.data)["status"])


async def test_signing_out_ends_that_sessions_streams_alone(served):
    world, port = served
    ann = await world.user("ann")
    again = world.client()
    await again.post("/api/auth/login", json={"email": ann.email, "password": PASSWORD})
    second = Person(ann.id, ann.email, again)
    async with (
        following(port, "/api/logs/stream", Cookie=ann.cookie) as one,
        following(port, "/api/logs/stream", Cookie=second.cookie) as two,
    ):
        await ann.client.post("/api/auth/logout")
        assert await ended(one) == 401
        await again.post("/api/logs", json={"entries": [{"message": "still here"}]})
        assert (await two.next()).event == "log"


@pytest.mark.parametrize("kind", ["stream", "poll"])
async def test_a_session_that_expires_ends_what_stands_on_it(served, kind: str):
    """In that second, and not at the next look at the rights."""
    world, port = served
    ann = await world.user("ann")
    at = utc_now() + timedelta(seconds=2)
    async with world.backend.database.write() as session:
        await session.execute(update(Session).values(expires_at=at))
    if kind == "stream":
        async with following(port, "/api/logs/stream", Cookie=ann.cookie) as stream:
            assert await ended(stream) == 401
    else:
        path = "/api/logs?wait=30"
        async with request(port, path, headers={"Cookie": ann.cookie}) as answer:
            assert answer.status == 401
    late = (utc_now() - at).total_seconds()
    assert 0 <= late < 1.5


async def test_signing_out_at_another_process(served, other: World):
    world, port = served
    ann = await world.user("ann")
    async with following(port, "/api/logs/stream", Cookie=ann.cookie) as stream:
        there = other.client()
        await there.post("/api/auth/logout", headers={"Cookie": ann.cookie})
        assert await ended(stream) == 401


async def test_a_disabled_user(served, other: World):
    world, port = served
    admin, ann = await world.admin(), await world.user("ann")
    async with following(port, "/api/notifications/stream", Cookie=ann.cookie) as stream:
        there = other.client()
        answer = await there.patch(
            f"/api/users/{ann.id}", json={"disabled": True}, headers={"Cookie": admin.cookie}
        )
        assert answer.status_code == 200, answer.text
        assert await ended(stream) == 401


async def test_a_deleted_key(served):
    world, port = served
    ann = await world.user("ann")
    made = (await ann.client.post("/api/users/me/api-keys", json={"name": "k"})).json()
    bearer = f"Bearer {made['api_key']}"
    async with (
        following(port, "/api/logs/stream", Authorization=bearer) as by_key,
        following(port, "/api/logs/stream", Cookie=ann.cookie) as by_session,
    ):
        assert (await ann.client.delete(f"/api/users/me/api-keys/{made['id']}")).is_success
        assert await ended(by_key) == 401
        await ann.client.post("/api/logs", json={"entries": [{"message": "still here"}]})
        assert (await by_session.next()).event == "log"


async def test_a_lost_membership(served, other: World):
    world, port = served
    admin, ann = await world.admin(), await world.user("ann")
    team = await world.team(ann)
    path = f"/api/teams/{team}/notifications/stream"
    async with following(port, path, Cookie=ann.cookie) as stream:
        there = other.client()
        answer = await there.delete(
            f"/api/teams/{team}/members/{ann.id}", headers={"Cookie": admin.cookie}
        )
        assert answer.status_code == 204
        assert await ended(stream) == 403


@pytest.mark.parametrize("what", ["user", "team", "satellite"])
async def test_what_is_removed_takes_its_streams_along(served, other: World, what: str):
    """Within a second, also of an administrator who is no member, and nobody else's."""
    world, port = served
    admin, ann = await world.admin(), await world.user("ann")
    boss = await world.user("boss", "global_admin")
    team = await world.team(ann)
    agent = await world.satellite(admin, team)
    logs, mine, of_team, clients, metrics = (
        "/api/logs/stream",
        "/api/notifications/stream",
        f"/api/teams/{team}/notifications/stream",
        f"/api/users/me/mcp/client-activity/stream?team_id={team}",
        f"/api/satellites/{agent.id}/metrics/stream",
    )
    path, lost, kept, status = {
        "user": (f"/api/users/{ann.id}", [logs, mine, of_team, clients, metrics], [], 401),
        "team": (f"/api/teams/{team}", [of_team, clients, metrics], [logs], 403),
        "satellite": (f"/api/satellites/{agent.id}", [metrics], [logs, of_team, clients], 403),
    }[what]
    of_the_boss = {"user": [], "team": [of_team, metrics], "satellite": [metrics]}[what]
    async with AsyncExitStack() as stack:

        async def streams(paths, person):
            return [
                await stack.enter_async_context(following(port, each, Cookie=person.cookie))
                for each in paths
            ]

        async def poll(each, person):
            each = f"{each.replace('/stream', '')}{'&' if '?' in each else '?'}wait=30"
            async with request(port, each, headers={"Cookie": person.cookie}) as answer:
                return answer.status

        ending = await streams(lost, ann) + await streams(of_the_boss, boss)
        polls = [asyncio.create_task(poll(each, ann)) for each in lost]
        polls += [asyncio.create_task(poll(each, boss)) for each in of_the_boss]
        await until(lambda: world.app.state.live.stats.waiting == len(polls))
        staying = await streams(kept, ann) + await streams([logs], boss)
        loop = asyncio.get_running_loop()
        answer = await other.client().delete(path, headers={"Cookie": admin.cookie})
        assert answer.status_code == 204, answer.text
        began = loop.time()
        found = [await ended(stream) for stream in ending]
        assert found == [status] * len(lost) + [403] * len(of_the_boss)
        assert await asyncio.gather(*polls) == found, "a request that waits is a stream"
        assert loop.time() - began < 2.0
        for person in (boss, ann) if what != "user" else (boss,):
            await person.client.post("/api/logs", json={"entries": [{"message": "still here"}]})
        for stream, each in zip(staying, [*kept, logs], strict=True):
            if each == logs:
                assert (await stream.next()).event == "log"
            else:
                assert not stream.ended
    again = await other.client().delete(path, headers={"Cookie": admin.cookie})
    assert again.status_code == 404


@pytest.mark.parametrize("most", [1, 2])
async def test_who_is_named_one_by_one_is_bounded(world: World, most: int):
    """A change in a team of 20,000 was as many rows, and its streams ended after 3 s."""
    ann, bob = await world.user("ann"), await world.user("bob")
    team = await world.team(ann, bob)
    database = world.backend.database
    async with database.write() as session:
        before = (await session.scalars(select(AccessChange.id))).all()
        await record_access_change_in_team(session, team, most=most)
    async with database.read() as session:
        changed = select(AccessChange.user_id).where(AccessChange.id.not_in(before))
        found = set(await session.scalars(changed))
    assert found == ({ann.id, bob.id} if most == 2 else {"*"})


async def test_a_lost_role(served, monkeypatch: pytest.MonkeyPatch):
    import headwater.backend.roles as roles

    world, port = served
    admin, ann = await world.admin(), await world.user("ann", "global_admin")
    view = roles.GLOBAL_ROLES["global_user"] - {"logs.view"}
    monkeypatch.setitem(roles.GLOBAL_ROLES, "global_user", view)  # type: ignore[attr-defined]
    async with following(port, "/api/logs/stream", Cookie=ann.cookie) as stream:
        await admin.client.patch(f"/api/users/{ann.id}", json={"role": "global_user"})
        assert await ended(stream) == 403


async def test_a_new_membership_changes_what_my_notifications_are(served):
    """The stream is ended so that the client resumes, and misses nothing of its new team."""
    world, port = served
    admin, ann = await world.admin(), await world.user("ann")
    team = await world.team()
    async with following(port, "/api/notifications/stream", Cookie=ann.cookie) as stream:
        await admin.client.put(f"/api/teams/{team}/members/{ann.id}", json={"role": "team_user"})
        rest = await stream.rest()
    assert [message for message in rest if message.event == "error"] == []
    body = {"team_id": team, "title": "welcome"}
    async with following(port, "/api/notifications/stream", Cookie=ann.cookie) as stream:
        await admin.client.post("/api/notifications", json=body)
        assert json.loads((await stream.next()).data)["title"] == "welcome"


async def test_what_rights_cost_does_not_grow_with_the_streams(served):
    world, port = served
    ann = await world.user("ann")
    asked = Statements(world)
    async with AsyncExitStack() as stack:
        for _ in range(30):
            path = "/api/logs/stream"
            await stack.enter_async_context(following(port, path, Cookie=ann.cookie))
        asked.since()
        await world.app.state.live.recheck()
        assert asked.since() == 1


async def test_different_callers_are_asked_for_in_one_statement(served):
    world, port = served
    asked = Statements(world)
    async with AsyncExitStack() as stack:
        for number in range(10):
            person = await world.user(f"u{number}")
            path = "/api/logs/stream"
            await stack.enter_async_context(following(port, path, Cookie=person.cookie))
        asked.since()
        await world.app.state.live.recheck()
        assert asked.since() == 1


async def test_a_request_asks_once_who_it_is(world: World, ann: Person):
    """Its guards and its handler want to know, and the team's membership comes along."""
    team = await world.team(ann)
    asked = Statements(world)
    await ann.client.get(f"/api/teams/{team}/notifications?limit=0")
    assert asked.since() == 1


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_changes_are_followed_once_the_database_is_back(settings, standing, monkeypatch):
    from headwater.delivery._hub import Hub
    from headwater.errors import SourceUnavailableError
    from headwater.web import _recheck_log as recheck_log

    monkeypatch.setattr(recheck_log, "RETRY_SECONDS", 0.01)
    subscribe, tries = Hub.subscribe, 0

    async def away(self, source, call):
        nonlocal tries
        tries += 1
        if tries < 3:
            raise SourceUnavailableError("table access_changes", "away")
        return await subscribe(self, source, call)

    monkeypatch.setattr(Hub, "subscribe", away)
    async with listening(settings, standing) as (world, port):
        await until(lambda: tries >= 3)
        ann = await world.user("ann")
        async with following(port, "/api/logs/stream", Cookie=ann.cookie) as stream:
            await ann.client.post("/api/auth/logout")
            assert await ended(stream) == 401


@pytest.mark.parametrize(
    ("change", "status"), [({"disabled": True}, 401), ({"role": "global_user"}, 403)]
)
async def test_a_right_that_ends_while_a_body_comes_is_no_right(served, change, status: int):
    """A body may take minutes: whoever was an administrator must not end up with another one."""
    world, port = served
    admin, boss = await world.admin(), await world.user("boss", "global_admin")
    body = json.dumps({"email": "mole@example.com", "password": PASSWORD, "role": "global_admin"})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /api/users HTTP/1.1\r\nHost: x\r\nCookie: {boss.cookie}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    # The guards have let it pass.
    assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
    writer.write(f"{len(body):x}\r\n{body}\r\n".encode())
    answer = await admin.client.patch(f"/api/users/{boss.id}", json=change)
    assert answer.status_code == 200
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 0.6)
    writer.write(b"0\r\n\r\n")
    async with asyncio.timeout(10):
        assert int((await reader.readline()).split(b" ")[1]) == status
    writer.close()
    users = (await admin.client.get("/api/users")).json()["users"]
    assert "mole@example.com" not in {user["email"] for user in users}
