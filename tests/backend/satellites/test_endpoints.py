"""Satellites, who sees them, and what they report."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select

from headwater.backend.models import AccessChange
from support.backend import Person, World, errors_of

REPORT = {"cpu_percent": 12.5, "memory_mb": 512, "requests_per_s": 3, "errors_per_s": 0}


async def test_the_key_is_shown_once(world: World, admin: Person):
    team = await world.team()
    answer = await admin.client.post("/api/satellites", json={"name": "north", "team_id": team})
    made = answer.json()
    assert set(made) == {"id", "name", "team_id", "api_key"}
    assert made["api_key"].startswith("hws_")
    listed = await admin.client.get("/api/satellites")
    assert made["api_key"] not in listed.text
    assert [(one["id"], one["team_id"]) for one in listed.json()["satellites"]] == [
        (made["id"], team)
    ]


async def test_one_sees_those_of_ones_teams_and_of_none(world: World, admin: Person, ann: Person):
    mine, other = await world.team(ann), await world.team(name="other")
    of_mine = await world.satellite(admin, mine)
    of_other = await world.satellite(admin, other)
    of_none = await world.satellite(admin)
    listed = (await ann.client.get("/api/satellites")).json()["satellites"]
    assert {one["id"] for one in listed} == {of_mine.id, of_none.id}
    for satellite, status in ((of_mine, 200), (of_none, 200), (of_other, 404)):
        answer = await ann.client.get(f"/api/satellites/{satellite.id}/metrics")
        assert answer.status_code == status


async def test_a_team_admin_registers_for_their_team(world: World, ann: Person):
    mine, other = await world.team(ann, role="team_admin"), await world.team(name="other")
    post = ann.client.post

    async def status(team: str | None) -> int:
        return (await post("/api/satellites", json={"name": "n", "team_id": team})).status_code

    assert await status(mine) == 201
    assert await status(None) == 403
    assert await status(other) == 422
    joined = await world.team(ann, name="joined")
    assert await status(joined) == 403


@pytest.mark.parametrize("body", [{"name": ""}, {"name": "n", "team_id": "none"}, {"nam": "n"}])
async def test_a_satellite_that_cannot_be(admin: Person, body: dict):
    errors_of(await admin.client.post("/api/satellites", json=body))
    assert (await admin.client.get("/api/satellites")).json()["satellites"] == []


class TestMetrics:
    async def test_they_come_back_in_order(self, world: World, admin: Person):
        agent = await world.satellite(admin)
        path = f"/api/satellites/{agent.id}/metrics"
        past = {**REPORT, "at": "2026-01-02T03:04:05+01:00", "cpu_percent": 1}
        answer = await agent.client.post(path, json={"reports": [past, REPORT]})
        assert answer.status_code == 201
        items = (await admin.client.get(path)).json()["metrics"]
        assert [item["id"] for item in items] == answer.json()["ids"]
        assert items[0]["at"] == "2026-01-02T02:04:05Z"
        assert [item["cpu_percent"] for item in items] == [1.0, 12.5]
        assert set(items[1]) == {"id", "at", *REPORT}

    async def test_only_a_satellite_itself_reports(self, world: World, admin: Person):
        agent, other = await world.satellite(admin), await world.satellite(admin)
        path = f"/api/satellites/{agent.id}/metrics"
        for body in ({"reports": [REPORT]}, {"x": 1}):
            assert (await world.anyone.post(path, json=body)).status_code == 401
            assert (await admin.client.post(path, json=body)).status_code == 403
            assert (await other.client.post(path, json=body)).status_code == 404
            missing = await agent.client.post("/api/satellites/none/metrics", json=body)
            assert missing.status_code == 404
        assert (await admin.client.get(path)).json()["metrics"] == []

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"cpu_percent": -1}, "cpu_percent"),
            ({"memory_mb": "much"}, "memory_mb"),
            ({"errors_per_s": None}, "errors_per_s"),
            ({"at": "yesterday"}, "at"),
            ({"at": "2026-01-02T03:04:05"}, "at"),
            ({"disk": 1}, "disk"),
        ],
    )
    async def test_one_bad_report_and_none_is_kept(
        self, world: World, admin: Person, change: dict, field: str
    ):
        agent = await world.satellite(admin)
        path = f"/api/satellites/{agent.id}/metrics"
        answer = await agent.client.post(path, json={"reports": [REPORT, {**REPORT, **change}]})
        assert set(errors_of(answer)) == {f"reports.1.{field}"}
        assert (await admin.client.get(path)).json()["metrics"] == []

    async def test_a_thousand_at_once_and_no_more(self, world: World, admin: Person):
        agent = await world.satellite(admin)
        path = f"/api/satellites/{agent.id}/metrics"
        answer = await agent.client.post(path, json={"reports": [REPORT] * 1000})
        assert len(answer.json()["ids"]) == 1000
        answer = await agent.client.post(path, json={"reports": [REPORT] * 1001})
        assert "reports" in errors_of(answer)


async def test_no_request_goes_through_a_thread_for_its_dependencies(
    world: World, admin: Person, monkeypatch: pytest.MonkeyPatch
):
    """FastAPI calls plain functions there, which costs more than what a report does itself."""
    satellite = await world.satellite(admin)

    async def in_a_thread(call: object, **_: object) -> None:
        raise AssertionError(call)

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", in_a_thread)
    own = f"/api/satellites/{satellite.id}/metrics"
    assert (await satellite.client.post(own, json={"reports": [REPORT]})).status_code == 201
    for path in (
        own,
        "/api/satellites",
        "/api/logs",
        "/api/notifications",
        "/api/users",
        "/api/teams",
        "/api/users/me",
    ):
        assert (await admin.client.get(path)).status_code == 200


class TestKeys:
    """One that leaked, or that is changed now and then."""

    async def renewed(self, person: Person, agent, **body) -> tuple[int, dict]:
        answer = await person.client.post(f"/api/satellites/{agent.id}/keys", json=body or None)
        return answer.status_code, answer.json()

    async def reports(self, client, agent) -> int:
        path = f"/api/satellites/{agent.id}/metrics"
        return (await client.post(path, json={"reports": [REPORT]})).status_code

    async def test_a_former_key_works_for_a_while(self, world: World, admin: Person):
        agent = await world.satellite(admin)
        status, made = await self.renewed(admin, agent)
        assert (status, made["satellite_id"]) == (201, agent.id)
        ends = datetime.fromisoformat(made["former_keys_end_at"]) - datetime.now(UTC)
        assert timedelta(minutes=59) < ends <= timedelta(hours=1)
        assert await self.reports(agent.client, agent) == 201
        assert await self.reports(world.client(key=made["api_key"]), agent) == 201
        listed = await admin.client.get("/api/satellites")
        assert made["api_key"] not in listed.text

    async def test_a_leaked_key_ends_at_once(self, world: World, admin: Person):
        agent = await world.satellite(admin)
        _, second = await self.renewed(admin, agent, overlap_seconds=1000)
        _, third = await self.renewed(admin, agent, overlap_seconds=0)
        assert await self.reports(agent.client, agent) == 401
        assert await self.reports(world.client(key=second["api_key"]), agent) == 401
        assert await self.reports(world.client(key=third["api_key"]), agent) == 201

    async def test_a_key_that_ends_sooner_lives_no_longer(self, world: World, admin: Person):
        agent = await world.satellite(admin)
        await self.renewed(admin, agent, overlap_seconds=0)
        await self.renewed(admin, agent, overlap_seconds=1000)
        assert await self.reports(agent.client, agent) == 401

    async def test_two_who_renew_a_key_at_once_lose_none(self, world: World, admin: Person):
        agent = await world.satellite(admin)
        made = await asyncio.gather(*(self.renewed(admin, agent) for _ in range(4)))
        assert {status for status, _ in made} == {201}
        for _, renewal in made:
            assert await self.reports(world.client(key=renewal["api_key"]), agent) == 201

    @pytest.mark.parametrize("seconds", [-1, 30 * 24 * 3600 + 1, "soon", None])
    async def test_an_overlap_that_cannot_be(self, world: World, admin: Person, seconds):
        agent = await world.satellite(admin)
        path = f"/api/satellites/{agent.id}/keys"
        answer = await admin.client.post(path, json={"overlap_seconds": seconds})
        assert set(errors_of(answer)) == {"overlap_seconds"}

    async def test_expired_keys_are_forgotten(self, world: World, admin: Person):
        from sqlalchemy import func, select

        from headwater.backend.models import RetiredSatelliteKey

        agent = await world.satellite(admin)
        for seconds in (1000, 0, 0):
            await self.renewed(admin, agent, overlap_seconds=seconds)
        await world.backend.satellites.remove_expired_keys()
        async with world.backend.database.read() as session:
            count = select(func.count()).select_from(RetiredSatelliteKey)
            assert await session.scalar(count) == 0


@pytest.mark.parametrize("what", ["keys", "remove"])
async def test_who_may_renew_a_key_or_remove_a_satellite(world: World, admin: Person, what: str):
    async def status(person: Person, agent) -> int:
        path = f"/api/satellites/{agent.id}"
        call = person.client.post(f"{path}/keys") if what == "keys" else person.client.delete(path)
        return (await call).status_code

    done = 201 if what == "keys" else 204
    ann, bob = await world.user("ann"), await world.user("bob")
    mine, other = await world.team(ann, role="team_admin"), await world.team(name="other")
    await world.backend.teams.put_member(mine, bob.id, "team_user")
    of_mine, of_other = await world.satellite(admin, mine), await world.satellite(admin, other)
    of_none = await world.satellite(admin)
    assert [await status(bob, each) for each in (of_mine, of_other, of_none)] == [403] * 3
    assert [await status(ann, each) for each in (of_other, of_none)] == [404, 403]
    assert await status(ann, of_mine) == done
    assert [await status(admin, each) for each in (of_other, of_none)] == [done] * 2
    assert (await world.anyone.delete(f"/api/satellites/{of_none.id}")).status_code == 401


async def test_a_satellite_manages_no_satellite(world: World, admin: Person):
    agent = await world.satellite(admin)
    assert (await agent.client.post(f"/api/satellites/{agent.id}/keys")).status_code == 403
    assert (await agent.client.delete(f"/api/satellites/{agent.id}")).status_code == 403


async def test_a_removed_satellite_is_gone(world: World, admin: Person, ann: Person):
    team = await world.team(ann)
    agent, other = await world.satellite(admin, team), await world.satellite(admin, team)
    activity = {"user_id": ann.id, "team_id": team, "client_name": "c"}
    activity |= {"requests": 1, "tool_calls": 1}
    for each in (agent, other):
        path = f"/api/satellites/{each.id}/client-activity"
        assert (await each.client.post(path, json={"activities": [activity]})).status_code == 201
    assert (await admin.client.delete(f"/api/satellites/{agent.id}")).status_code == 204
    assert (await admin.client.delete(f"/api/satellites/{agent.id}")).status_code == 404
    report = {"reports": [REPORT]}
    answer = await agent.client.post(f"/api/satellites/{agent.id}/metrics", json=report)
    assert answer.status_code == 401
    assert (await ann.client.get(f"/api/satellites/{agent.id}/metrics")).status_code == 404
    listed = (await ann.client.get("/api/satellites")).json()["satellites"]
    assert [one["id"] for one in listed] == [other.id]
    path = f"/api/users/me/mcp/client-activity?team_id={team}"
    found = (await ann.client.get(path)).json()["activities"]
    assert [one["satellite_id"] for one in found] == [other.id]


@pytest.mark.parametrize("of_team", [True, False])
async def test_a_removed_satellite_costs_those_a_check_who_could_see_it(
    world: World, admin: Person, ann: Person, bob: Person, of_team: bool
):
    """A team admin who removes many would else keep the streams of all others waiting."""
    agent = await world.satellite(admin, await world.team(ann) if of_team else None)
    async with world.backend.database.write() as session:
        await session.execute(delete(AccessChange))
    await admin.client.delete(f"/api/satellites/{agent.id}")
    async with world.backend.database.read() as session:
        told = await session.scalars(select(AccessChange.user_id))
        assert set(told) == ({admin.id, ann.id} if of_team else {"*"})
