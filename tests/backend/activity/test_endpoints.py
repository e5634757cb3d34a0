"""Client activity: counts add up, all of a report or none, and idle clients leave."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text, update

from headwater.backend.models import ClientActivity
from headwater.backend.times import utc_now
from support.backend import Agent, Person, World, errors_of


class Scene:
    def __init__(self, world: World, ann: Person, team: str, agent: Agent) -> None:
        self.world, self.ann, self.team, self.agent = world, ann, team, agent

    def one(self, **change: object) -> dict:
        return {
            "user_id": self.ann.id,
            "team_id": self.team,
            "client_name": "Cursor",
            "requests": 2,
            "tool_calls": 1,
            **change,
        }

    async def report(self, *activities: dict, agent: Agent | None = None):
        agent = agent or self.agent
        return await agent.client.post(
            f"/api/satellites/{agent.id}/client-activity", json={"activities": list(activities)}
        )

    async def shown(self, **params: object) -> list[dict]:
        answer = await self.ann.client.get(
            "/api/users/me/mcp/client-activity", params={"team_id": self.team, **params}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["activities"]

    async def replaced_none(self) -> None:
        """A row that is counted on is not one that was replaced."""
        async with self.world.backend.database.read() as session:
            assert await session.scalar(text("SELECT count(*) FROM headwater_removals")) == 0


@pytest.fixture
async def scene(world: World, admin: Person, ann: Person) -> Scene:
    team = await world.team(ann)
    return Scene(world, ann, team, await world.satellite(admin, team))


async def test_counts_add_up_and_the_last_moment_moves(scene: Scene):
    assert (await scene.report(scene.one(user_agent="Cursor/2"))).status_code == 201
    [before] = await scene.shown()
    # One client several times in one report, and once without its agent.
    answer = await scene.report(scene.one(requests=3), scene.one(tool_calls=4))
    assert answer.status_code == 201
    [after] = await scene.shown()
    assert (after["requests"], after["tool_calls"]) == (7, 6)
    assert after["id"] == before["id"]
    assert after["user_agent"] == "Cursor/2"
    assert after["last_activity_at"] > before["last_activity_at"]
    assert after["created_at"] == before["created_at"]
    await scene.replaced_none()


async def test_a_new_client_may_be_in_one_report_several_times(scene: Scene):
    await scene.report(scene.one(requests=3), scene.one(requests=4))
    [row] = await scene.shown()
    assert row["requests"] == 7
    await scene.replaced_none()


async def test_a_client_is_one_row_for_each_satellite(scene: Scene, admin: Person):
    other = await scene.world.satellite(admin)
    await scene.report(scene.one())
    await scene.report(scene.one(), agent=other)
    rows = await scene.shown()
    assert {row["satellite_id"] for row in rows} == {scene.agent.id, other.id}


async def test_idle_clients_are_not_shown(scene: Scene):
    await scene.report(scene.one(client_name="busy"), scene.one(client_name="idle"))
    async with scene.world.backend.database.write() as session:
        await session.execute(
            update(ClientActivity)
            .where(ClientActivity.client_name == "idle")
            .values(last_activity_at=utc_now() - timedelta(minutes=31))
        )
    assert [row["client_name"] for row in await scene.shown()] == ["busy"]
    shown = await scene.shown(active_within_minutes=60)
    assert {row["client_name"] for row in shown} == {"busy", "idle"}
    await scene.report(scene.one(client_name="idle"))
    assert {row["client_name"] for row in await scene.shown()} == {"busy", "idle"}


async def test_what_cannot_be_counted_is_named_and_nothing_is(scene: Scene, bob: Person):
    world = scene.world
    other = await world.team(name="other")
    cases = [
        ({"user_id": "nobody"}, "activities.1.user_id", "nobody"),
        ({"user_id": bob.id}, "activities.1.user_id", bob.id),
        ({"team_id": other}, "activities.1.team_id", other),
        ({"team_id": "none"}, "activities.1.team_id", "none"),
    ]
    for change, field, value in cases:
        errors = errors_of(await scene.report(scene.one(), scene.one(**change)))
        assert set(errors) == {field}
        assert errors[field]["value"] == value
    assert await scene.shown() == []


async def test_a_satellite_of_no_team_reports_for_all(scene: Scene, admin: Person):
    agent = await scene.world.satellite(admin)
    assert (await scene.report(scene.one(), agent=agent)).status_code == 201
    errors = errors_of(await scene.report(scene.one(team_id="none"), agent=agent))
    assert set(errors) == {"activities.0.team_id"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"requests": -1}, "requests"),
        ({"requests": 1.5}, "requests"),
        ({"tool_calls": 10**10}, "tool_calls"),
        ({"client_name": ""}, "client_name"),
        ({"client_name": "two\nlines"}, "client_name"),
        ({"user_agent": "x" * 501}, "user_agent"),
        ({"version": "1"}, "version"),
    ],
)
async def test_a_report_that_cannot_be(scene: Scene, change: dict, field: str):
    errors = errors_of(await scene.report(scene.one(), scene.one(**change)))
    assert set(errors) == {f"activities.1.{field}"}
    assert await scene.shown() == []


async def test_only_a_satellite_itself_reports(scene: Scene, admin: Person):
    other = await scene.world.satellite(admin)
    path = f"/api/satellites/{scene.agent.id}/client-activity"
    for body in ({"activities": [scene.one()]}, {"x": 1}):
        assert (await scene.world.anyone.post(path, json=body)).status_code == 401
        assert (await scene.ann.client.post(path, json=body)).status_code == 403
        assert (await other.client.post(path, json=body)).status_code == 404


async def test_a_thousand_at_once_and_no_more(scene: Scene):
    clients = [scene.one(client_name=f"c{number}") for number in range(1000)]
    assert (await scene.report(*clients)).json() == {"accepted": 1000}
    assert len(await scene.shown(limit=100)) == 100
    assert set(errors_of(await scene.report(*clients, scene.one()))) == {"activities"}
