"""The backend's joins as live feeds: a change in any of their tables shows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from headwater.backend.models import Satellite, Team
from support.backend import Person, World


async def until_shown(person: Person, path: str, name: str, wanted: list[dict]) -> None:
    """Wait until the page has these members of each item."""
    async with asyncio.timeout(10):
        while True:
            answer = await person.client.get(path)
            assert answer.status_code == 200, answer.text
            shown = [
                {key: item[key] for key in each}
                for item, each in zip(answer.json()[name], wanted, strict=False)
            ]
            if shown == wanted and len(answer.json()[name]) == len(wanted):
                return
            await asyncio.sleep(0.02)  # the board looks at metrics every two seconds


async def run(world: World, statement) -> None:
    async with world.backend.database.write() as session:
        await session.execute(statement)


@pytest.fixture
async def scene(world: World, admin: Person, ann: Person):
    """Ann's team with a satellite and one client; Bob is in another team."""
    bob = await world.user("bob")
    team, other = await world.team(ann), await world.team(bob, name="Others")
    agent = await world.satellite(admin, team)
    await world.satellite(admin, other)
    counts = {"client_name": "Cursor", "requests": 2, "tool_calls": 1}
    report = {"user_id": ann.id, "team_id": team, **counts}
    answer = await agent.client.post(
        f"/api/satellites/{agent.id}/client-activity", json={"activities": [report]}
    )
    assert answer.status_code == 201, answer.text
    return world, ann, bob, team, agent


async def test_a_teams_clients_have_the_names_of_their_users_and_satellites(scene):
    world, ann, bob, team, agent = scene
    path = f"/api/teams/{team}/clients"
    one = {"email": ann.email, "client_name": "Cursor", "requests": 2}
    await until_shown(ann, path, "clients", [one])
    await run(world, update(Satellite).where(Satellite.id == agent.id).values(name="renamed"))
    await until_shown(ann, path, "clients", [one | {"satellite_name": "renamed"}])
    assert (await bob.client.get(path)).status_code == 404
    assert (await bob.client.get(f"{path}/stream")).status_code == 404


async def test_an_overview_counts_what_belongs_to_my_teams_alone(scene):
    world, ann, bob, team, _ = scene
    path = "/api/teams/overview"
    counts = {"id": team, "members": 1, "satellites": 1, "clients": 1}
    await until_shown(ann, path, "teams", [counts])
    await world.backend.teams.put_member(team, bob.id, "team_user")
    await run(world, update(Team).where(Team.id == team).values(name="Renamed"))
    await until_shown(ann, path, "teams", [counts | {"members": 2, "name": "Renamed"}])
    answer = await bob.client.get(path)
    assert len(answer.json()["teams"]) == 2
    nobody = await world.user("nobody")
    assert (await nobody.client.get(path)).json()["teams"] == []


async def test_the_status_board_has_clients_metrics_and_recent_errors(scene):
    world, ann, bob, team, agent = scene
    path = "/api/satellites/status"
    await until_shown(ann, path, "satellites", [{"id": agent.id, "clients": 1, "metrics": None}])
    report = {"cpu_percent": 5, "memory_mb": 1, "requests_per_s": 2, "errors_per_s": 3}
    moments = [{"at": world_time(seconds)} for seconds in (-600, -20, -10, 0)]
    answer = await agent.client.post(
        f"/api/satellites/{agent.id}/metrics", json={"reports": [report | each for each in moments]}
    )
    assert answer.status_code == 201, answer.text
    # Three errors a second: 60 s of the silence before, then twice 10 s.
    wanted = [{"id": agent.id, "errors_last_5_minutes": 240}]
    await until_shown(ann, path, "satellites", wanted)
    shown = (await ann.client.get(path)).json()["satellites"][0]
    assert shown["metrics"]["cpu_percent"] == 5
    assert agent.id not in {
        each["id"] for each in (await bob.client.get(path)).json()["satellites"]
    }


def world_time(seconds: int) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
