"""Teams and membership."""

from __future__ import annotations

import pytest

from support.backend import Person, World, errors_of


async def test_an_administrator_makes_teams(admin: Person):
    made = (await admin.client.post("/api/teams", json={"name": " Platform "})).json()
    assert made["name"] == "Platform"
    listed = (await admin.client.get("/api/teams")).json()
    assert [team["id"] for team in listed["teams"]] == [made["id"]]
    assert listed["has_more"] is False


@pytest.mark.parametrize("body", [{"name": ""}, {"name": "x" * 101}, {}, {"name": "a", "x": 1}])
async def test_a_team_that_cannot_be(admin: Person, body: dict):
    assert set(errors_of(await admin.client.post("/api/teams", json=body))) <= {"name", "x"}


async def test_members_come_and_go(admin: Person, ann: Person, world: World):
    team = await world.team()
    path = f"/api/teams/{team}/members/{ann.id}"
    assert (await ann.client.get("/api/users/me/teams")).json()["teams"] == []
    answer = await admin.client.put(path, json={"role": "team_user"})
    assert answer.json() == {"team_id": team, "user_id": ann.id, "role": "team_user"}
    [mine] = (await ann.client.get("/api/users/me/teams")).json()["teams"]
    assert (mine["id"], mine["role"]) == (team, "team_user")
    await admin.client.put(path, json={"role": "team_admin"})
    [mine] = (await ann.client.get("/api/users/me/teams")).json()["teams"]
    assert mine["role"] == "team_admin"
    assert (await admin.client.delete(path)).status_code == 204
    assert (await ann.client.get("/api/users/me/teams")).json()["teams"] == []
    assert (await admin.client.delete(path)).status_code == 404


async def test_a_team_admin_changes_their_own_team_alone(world: World, ann: Person, bob: Person):
    mine = await world.team(ann, role="team_admin")
    other = await world.team(name="Other")
    body = {"role": "team_user"}
    put = ann.client.put
    assert (await put(f"/api/teams/{mine}/members/{bob.id}", json=body)).status_code == 200
    assert (await put(f"/api/teams/{other}/members/{bob.id}", json=body)).status_code == 404
    assert (await bob.client.delete(f"/api/teams/{mine}/members/{ann.id}")).status_code == 403
    assert (await ann.client.get("/api/teams")).status_code == 403


async def test_neither_team_nor_user_need_exist(world: World, admin: Person, ann: Person):
    team = await world.team()
    body = {"role": "team_user"}
    for path in (f"/api/teams/x/members/{ann.id}", f"/api/teams/{team}/members/x"):
        answer = await admin.client.put(path, json=body)
        assert answer.status_code == 404
        # Whoever may not know of the team is told the same, whatever they send.
        assert (await ann.client.put(path, content=b"{")).status_code == 404


async def test_a_role_that_is_none(world: World, admin: Person, ann: Person):
    team = await world.team()
    path = f"/api/teams/{team}/members/{ann.id}"
    errors = errors_of(await admin.client.put(path, json={"role": "global_admin"}))
    assert errors["role"]["value"] == "global_admin"
    assert "team_admin" in errors["role"]["detail"]


async def test_a_removed_team_is_gone(world: World, admin: Person, ann: Person):
    team, other = await world.team(ann, role="team_admin"), await world.team(ann, name="other")
    agent = await world.satellite(admin, team)
    assert (await ann.client.delete(f"/api/teams/{team}")).status_code == 403
    for each in (team, other):
        note = {"team_id": each, "title": "t"}
        assert (await admin.client.post("/api/notifications", json=note)).status_code == 201
    assert (await admin.client.delete(f"/api/teams/{team}")).status_code == 204
    mine = (await ann.client.get("/api/users/me/teams")).json()["teams"]
    assert [one["id"] for one in mine] == [other]
    found = (await ann.client.get("/api/notifications")).json()["notifications"]
    assert [one["team_id"] for one in found] == [other]
    for person in (ann, admin):
        assert (await person.client.get(f"/api/teams/{team}/notifications")).status_code == 404
    listed = (await admin.client.get("/api/satellites")).json()["satellites"]
    assert listed == []
    reports = {"reports": [{"cpu_percent": 1, "memory_mb": 1, "requests_per_s": 1}]}
    answer = await agent.client.post(f"/api/satellites/{agent.id}/metrics", json=reports)
    assert answer.status_code == 401
    assert (await admin.client.delete(f"/api/teams/{team}")).status_code == 404


async def test_who_belongs_to_a_team_is_for_its_administrators(
    world: World, admin: Person, ann: Person, bob: Person
):
    team = await world.team(bob)
    await world.backend.teams.put_member(team, ann.id, "team_admin")
    for person in (admin, ann):
        listed = (await person.client.get(f"/api/teams/{team}/members")).json()
        assert listed == {
            "members": [
                {"id": ann.id, "email": ann.email, "role": "team_admin"},
                {"id": bob.id, "email": bob.email, "role": "team_user"},
            ],
            "has_more": False,
        }
    assert (await bob.client.get(f"/api/teams/{team}/members")).status_code == 403
    assert (await admin.client.get("/api/teams/x/members")).status_code == 404
