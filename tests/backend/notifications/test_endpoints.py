"""Who may notify whom, and who sees it."""

from __future__ import annotations

import pytest

from support.backend import Person, World, errors_of


async def send(person: Person, **body: object):
    return await person.client.post(
        "/api/notifications", json={"level": "info", "title": "t", "body": "b", **body}
    )


async def seen(person: Person) -> list[str]:
    page = (await person.client.get("/api/notifications")).json()
    return [item["title"] for item in page["notifications"]]


async def test_a_feed_is_personal_and_of_ones_teams(
    world: World, admin: Person, ann: Person, bob: Person
):
    team = await world.team(ann)
    await send(admin, user_id=ann.id, title="to ann")
    await send(admin, user_id=bob.id, title="to bob")
    await send(admin, team_id=team, title="to the team")
    assert await seen(ann) == ["to ann", "to the team"]
    assert await seen(bob) == ["to bob"]
    assert await seen(admin) == []
    page = (await ann.client.get(f"/api/teams/{team}/notifications")).json()
    assert [item["title"] for item in page["notifications"]] == ["to the team"]


async def test_it_answers_with_what_was_made(admin: Person, ann: Person):
    answer = await send(admin, user_id=ann.id, level="error", title="Disk full", body="on north-1")
    assert answer.status_code == 201
    [item] = (await ann.client.get("/api/notifications")).json()["notifications"]
    assert answer.json() == item
    assert item["created_at"].endswith("Z")
    assert (item["user_id"], item["team_id"], item["level"]) == (ann.id, None, "error")


async def test_a_recipient_that_does_not_exist_is_named(admin: Person):
    errors = errors_of(await send(admin, user_id="nobody"))
    assert errors["user_id"]["value"] == "nobody"
    errors = errors_of(await send(admin, team_id="none"))
    assert errors["team_id"]["value"] == "none"


async def test_there_is_exactly_one_recipient(world: World, admin: Person, ann: Person):
    team = await world.team(ann)
    for recipients in ({}, {"user_id": ann.id, "team_id": team}):
        errors = errors_of(await send(admin, **recipients))
        assert "exactly one" in errors["user_id"]["detail"]
    assert await seen(ann) == []


async def test_a_team_admin_notifies_their_team_and_themselves(
    world: World, ann: Person, bob: Person
):
    mine = await world.team(ann, bob, name="mine")
    await world.backend.teams.put_member(mine, ann.id, "team_admin")
    joined = await world.team(ann, name="joined")
    other = await world.team(name="other")
    assert (await send(ann, team_id=mine)).status_code == 201
    assert (await send(ann, user_id=ann.id)).status_code == 201
    assert (await send(ann, user_id=bob.id)).status_code == 403
    assert (await send(ann, user_id="nobody")).status_code == 403
    assert (await send(ann, team_id=joined)).status_code == 403
    # A team that one may not know of is answered like one that does not exist.
    hidden, missing = await send(ann, team_id=other), await send(ann, team_id="0" * 32)
    assert errors_of(hidden)["team_id"]["detail"] == errors_of(missing)["team_id"]["detail"]
    assert (await send(bob, team_id=mine)).status_code == 403


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"level": "nope"}, "level"),
        ({"title": ""}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": None}, "title"),
        ({"body": "x" * 16_385}, "body"),
        ({"urgent": True}, "urgent"),
    ],
)
async def test_a_notification_that_cannot_be(admin: Person, ann: Person, body: dict, field: str):
    errors = errors_of(await send(admin, user_id=ann.id, **body))
    assert set(errors) == {field}
    assert await seen(ann) == []
