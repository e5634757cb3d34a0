"""Satellites, who sees them, and what they report."""

from __future__ import annotations

import pytest

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
