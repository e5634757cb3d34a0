"""Users, their teams and keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.errors import SourceUnavailableError
from support.backend import PASSWORD, Person, World, cheap, errors_of, running


async def test_who_am_i(ann: Person, admin: Person):
    me = (await ann.client.get("/api/users/me")).json()
    assert (me["id"], me["email"], me["role"]) == (ann.id, ann.email, "global_user")
    assert "logs.view" in me["permissions"]
    assert "users.list" not in me["permissions"]
    assert "users.list" in (await admin.client.get("/api/users/me")).json()["permissions"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/users"),
        ("POST", "/api/users"),
        ("PATCH", "/api/users/x"),
        ("GET", "/api/teams"),
        ("POST", "/api/teams"),
        ("PUT", "/api/teams/{team}/members/x"),
        ("DELETE", "/api/teams/{team}/members/x"),
        ("POST", "/api/satellites"),
        ("POST", "/api/notifications"),
    ],
)
async def test_what_an_ordinary_user_may_not(world: World, ann: Person, method: str, path: str):
    """403 with whatever body, and 401 for nobody: neither learns what a route expects."""
    path = path.format(team=await world.team(ann))
    for body in (b"", b"{", b"[]", b'{"x": 1}'):
        headers = {"Content-Type": "application/json"}
        answer = await ann.client.request(method, path, content=body, headers=headers)
        assert answer.status_code == 403, answer.text
        answer = await world.anyone.request(method, path, content=body, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"


async def test_an_administrator_makes_users(world: World, admin: Person):
    body = {"email": " New@Example.com", "password": PASSWORD, "role": "global_admin"}
    answer = await admin.client.post("/api/users", json=body)
    assert answer.status_code == 201
    made = answer.json()
    assert (made["email"], made["role"], made["disabled"]) == (
        "new@example.com",
        "global_admin",
        False,
    )
    assert "password" not in answer.text
    again = await admin.client.post("/api/users", json={**body, "email": "NEW@example.com"})
    assert again.status_code == 409
    sign_in = {"email": "new@example.com", "password": PASSWORD}
    assert (await world.anyone.post("/api/auth/login", json=sign_in)).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "nobody", "password": PASSWORD}, "email"),
        ({"email": "a b@example.com", "password": PASSWORD}, "email"),
        ({"email": "a@" + "b" * 300, "password": PASSWORD}, "email"),
        ({"email": "a@example.com", "password": "abc"}, "password"),
        ({"email": "a@example.com", "password": "x" * 1025}, "password"),
        ({"email": "a@example.com"}, "password"),
        ({"email": "a@example.com", "password": PASSWORD, "role": "king"}, "role"),
        ({"email": "a@example.com", "password": PASSWORD, "admin": True}, "admin"),
    ],
)
async def test_a_user_that_cannot_be(admin: Person, body: dict, field: str):
    answer = await admin.client.post("/api/users", json=body)
    errors = errors_of(answer)
    assert set(errors) == {field}
    if field == "password":
        assert "value" not in errors[field]
        assert str(body.get("password", "abc")) not in answer.text
    listed = (await admin.client.get("/api/users")).json()["users"]
    assert [user["email"] for user in listed] == ["admin@example.com"]


async def test_roles_and_disabling(world: World, admin: Person, ann: Person):
    path = f"/api/users/{ann.id}"
    answer = await admin.client.patch(path, json={"role": "global_admin"})
    assert answer.json()["role"] == "global_admin"
    assert (await ann.client.get("/api/users")).status_code == 200
    answer = await admin.client.patch(path, json={"disabled": True})
    assert answer.json()["disabled"] is True
    assert (await ann.client.get("/api/users")).status_code == 401
    await admin.client.patch(path, json={"disabled": False})
    # The sessions of before are gone for good.
    assert (await ann.client.get("/api/users")).status_code == 401


async def test_keys_of_a_disabled_user_wait(world: World, admin: Person, ann: Person):
    made = await ann.client.post("/api/users/me/api-keys", json={"name": "k"})
    program = world.client(key=made.json()["api_key"])
    await admin.client.patch(f"/api/users/{ann.id}", json={"disabled": True})
    assert (await program.get("/api/users/me")).status_code == 401
    await admin.client.patch(f"/api/users/{ann.id}", json={"disabled": False})
    assert (await program.get("/api/users/me")).status_code == 200


async def test_one_user_has_a_bounded_number_of_sessions_and_keys(database: Path):
    """Nobody fills the tables that each request is looked up in."""
    async with running(cheap(database, max_credentials=3)) as world:
        ann, bob = await world.user("ann"), await world.user("bob")
        login = {"email": ann.email, "password": PASSWORD}
        clients = [ann.client, *(world.client() for _ in range(3))]
        for client in clients[1:]:
            assert (await client.post("/api/auth/login", json=login)).status_code == 200
        answers = [(await client.get("/api/users/me")).status_code for client in clients]
        assert answers == [401, 200, 200, 200]
        assert (await bob.client.get("/api/users/me")).status_code == 200
        path = "/api/users/me/api-keys"
        made = [await clients[1].post(path, json={"name": "k"}) for _ in range(4)]
        assert [answer.status_code for answer in made] == [201, 201, 201, 409]
        assert made[3].json()["detail"] == "You have 3 API keys: delete one first."
        await clients[1].delete(f"{path}/{made[0].json()['id']}")
        assert (await clients[1].post(path, json={"name": "k"})).status_code == 201


@pytest.mark.parametrize("change", [{"disabled": True}, {"role": "global_user"}])
async def test_the_last_administrator_stays(world: World, admin: Person, change: dict):
    answer = await admin.client.patch(f"/api/users/{admin.id}", json=change)
    assert answer.status_code == 409
    assert (await admin.client.get("/api/users")).status_code == 200
    other = await world.user("other", "global_admin")
    assert (await admin.client.patch(f"/api/users/{other.id}", json=change)).status_code == 200
    assert (await admin.client.patch(f"/api/users/{admin.id}", json=change)).status_code == 409


async def test_a_removed_user_is_gone(world: World, admin: Person, ann: Person, bob: Person):
    team = await world.team(ann, bob)
    key = (await ann.client.post("/api/users/me/api-keys", json={"name": "k"})).json()["api_key"]
    agent = await world.satellite(admin, team)
    activity = {"client_name": "c", "requests": 1, "tool_calls": 1, "team_id": team}
    both = [{**activity, "user_id": ann.id}, {**activity, "user_id": bob.id}]
    path = f"/api/satellites/{agent.id}/client-activity"
    assert (await agent.client.post(path, json={"activities": both})).status_code == 201
    for person in (ann, bob):
        for _ in range(3):
            entries = [{"message": f"{number}"} for number in range(1000)]
            await person.client.post("/api/logs", json={"entries": entries})
        note = {"user_id": person.id, "title": "t"}
        await admin.client.post("/api/notifications", json=note)
    assert (await admin.client.delete(f"/api/users/{ann.id}")).status_code == 204
    assert (await world.client(key=key).get("/api/users/me")).status_code == 401
    assert (await ann.client.get("/api/users/me")).status_code == 401
    login = {"email": ann.email, "password": PASSWORD}
    assert (await world.client().post("/api/auth/login", json=login)).status_code == 401
    assert (await agent.client.post(path, json={"activities": both})).status_code == 422
    assert (await bob.client.get("/api/logs")).json()["has_more"] is True
    found = (await bob.client.get(f"/api/users/me/mcp/client-activity?team_id={team}")).json()
    assert [one["user_id"] for one in found["activities"]] == [bob.id]
    # The address is free again, and nothing of before comes back with it.
    made = await world.user("ann")
    assert (await made.client.get("/api/logs")).json()["logs"] == []
    assert (await made.client.get("/api/notifications")).json()["notifications"] == []


async def test_the_last_administrator_is_not_removed(world: World, admin: Person):
    assert (await admin.client.delete(f"/api/users/{admin.id}")).status_code == 409
    other = await world.user("other", "global_admin")
    assert (await admin.client.delete(f"/api/users/{admin.id}")).status_code == 204
    assert (await other.client.get("/api/users")).status_code == 200


async def test_a_removal_that_was_interrupted_can_be_repeated(
    world: World, admin: Person, ann: Person, monkeypatch: pytest.MonkeyPatch
):
    """The rights go first."""

    async def interrupted(model, condition):
        raise SourceUnavailableError("The database", "away")

    with monkeypatch.context() as patched:
        patched.setattr(world.backend.database, "delete_in_steps", interrupted)
        assert (await admin.client.delete(f"/api/users/{ann.id}")).status_code == 503
    assert (await ann.client.get("/api/users/me")).status_code == 401
    assert (await admin.client.delete(f"/api/users/{ann.id}")).status_code == 204
    assert (await admin.client.delete(f"/api/users/{ann.id}")).status_code == 404


async def test_a_user_that_is_not_there(admin: Person):
    answer = await admin.client.patch("/api/users/nobody", json={"disabled": True})
    assert answer.status_code == 404
    assert "nobody" in answer.json()["detail"]


async def test_lists_come_in_pages(world: World, admin: Person):
    for number in range(5):
        await world.backend.users.create(f"u{number}@example.com", PASSWORD, "global_user")
    seen, after = [], None
    while True:
        page = (
            await admin.client.get(
                "/api/users", params={"limit": 2} | ({"after": after} if after else {})
            )
        ).json()
        seen += [user["email"] for user in page["users"]]
        after = page["users"][-1]["id"]
        if not page["has_more"]:
            break
    expected = ["admin@example.com", *(f"u{number}@example.com" for number in range(5))]
    assert sorted(seen) == sorted(expected)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("query", "field"), [("limit=0", "limit"), ("limit=101", "limit"), ("after=x", "after")]
)
async def test_a_page_that_cannot_be(admin: Person, query: str, field: str):
    errors = errors_of(await admin.client.get(f"/api/users?{query}"))
    assert str(errors[field]["value"]) == query.partition("=")[2]


class TestKeys:
    async def test_the_secret_is_shown_once(self, ann: Person):
        made = (await ann.client.post("/api/users/me/api-keys", json={"name": " laptop "})).json()
        assert made["api_key"].startswith("hw_")
        assert made["name"] == "laptop"
        listed = await ann.client.get("/api/users/me/api-keys")
        [key] = listed.json()["api_keys"]
        assert (key["id"], key["name"]) == (made["id"], "laptop")
        assert made["api_key"] not in listed.text

    async def test_a_deleted_key_is_nobody(self, world: World, ann: Person):
        made = (await ann.client.post("/api/users/me/api-keys", json={"name": "k"})).json()
        program = world.client(key=made["api_key"])
        assert (await ann.client.delete(f"/api/users/me/api-keys/{made['id']}")).status_code == 204
        assert (await program.get("/api/users/me")).status_code == 401
        answer = await ann.client.delete(f"/api/users/me/api-keys/{made['id']}")
        assert answer.status_code == 404

    async def test_of_others_do_not_exist(self, ann: Person, bob: Person):
        made = (await ann.client.post("/api/users/me/api-keys", json={"name": "k"})).json()
        answer = await bob.client.delete(f"/api/users/me/api-keys/{made['id']}")
        assert answer.status_code == 404
        assert (await bob.client.get("/api/users/me/api-keys")).json()["api_keys"] == []

    @pytest.mark.parametrize("name", ["", "   ", "x" * 101, "two\nlines", 7, None])
    async def test_a_name_that_cannot_be(self, ann: Person, name: object):
        answer = await ann.client.post("/api/users/me/api-keys", json={"name": name})
        assert set(errors_of(answer)) == {"name"}


async def test_sessions_are_listed_and_ended(world: World, admin: Person, ann: Person):
    """Someone who left a browser signed in ends that session from another one."""
    other = world.client()
    pair = {"email": ann.email, "password": PASSWORD}
    await other.post("/api/auth/login", json=pair)
    listed = (await ann.client.get("/api/users/me/sessions")).json()["sessions"]
    assert [each["current"] for each in listed] == [True, False]
    path = f"/api/users/me/sessions/{listed[1]['id']}"
    assert (await ann.client.delete(path)).status_code == 204
    assert (await other.get("/api/users/me")).status_code == 401
    assert (await ann.client.delete(path)).status_code == 404

    theirs = (await admin.client.get(f"/api/users/{ann.id}/sessions")).json()["sessions"]
    assert [each["current"] for each in theirs] == [False]
    path = f"/api/users/{ann.id}/sessions/{theirs[0]['id']}"
    assert (
        await admin.client.delete(f"/api/users/me/sessions/{theirs[0]['id']}")
    ).status_code == 404
    assert (await admin.client.delete(path)).status_code == 204
    assert (await ann.client.get("/api/users/me")).status_code == 401
    assert (await admin.client.get("/api/users/x/sessions")).status_code == 404


async def test_the_sessions_of_others_are_for_administrators(ann: Person, bob: Person):
    assert (await ann.client.get(f"/api/users/{bob.id}/sessions")).status_code == 403
    assert (await ann.client.delete(f"/api/users/{bob.id}/sessions/x")).status_code == 403
