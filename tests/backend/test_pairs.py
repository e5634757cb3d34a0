"""The five pairs, over real connections: both halves say the same, to everyone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.backend import Agent, Person, World
from support.http import request

STREAM = {"Accept": "text/event-stream"}


class Scene:
    """A member, a stranger, one item in each feed, and the feeds' paths."""

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        self.port = port

    async def set(self) -> Scene:
        world = self.world
        self.admin = await world.admin()
        self.ann = await world.user("ann")
        self.stranger = await world.user("stranger")
        self.team = await world.team(self.ann)
        self.agent: Agent = await world.satellite(self.admin, self.team)
        self.paths = {
            "logs": "/api/logs",
            "notifications": "/api/notifications",
            "team": f"/api/teams/{self.team}/notifications",
            "metrics": f"/api/satellites/{self.agent.id}/metrics",
            "activity": f"/api/users/me/mcp/client-activity?team_id={self.team}",
        }
        await self.add("logs")
        await self.add("team")
        await self.add("metrics")
        await self.add("activity")
        return self

    async def add(self, feed: str) -> None:
        """One more item."""
        if feed == "logs":
            sent = await self.ann.client.post(
                "/api/logs", json={"entries": [{"level": "info", "source": "s", "message": "m"}]}
            )
        elif feed in ("team", "notifications"):
            body = {"team_id": self.team, "level": "info", "title": "t", "body": "b"}
            sent = await self.admin.client.post("/api/notifications", json=body)
        elif feed == "metrics":
            report = {"cpu_percent": 1, "memory_mb": 2, "requests_per_s": 3, "errors_per_s": 0}
            sent = await self.agent.client.post(
                f"/api/satellites/{self.agent.id}/metrics", json={"reports": [report]}
            )
        else:
            sent = await self.use("Cursor")
        assert sent.status_code == 201, sent.text

    async def use(self, client: str) -> Any:
        activity = {
            "user_id": self.ann.id,
            "team_id": self.team,
            "client_name": client,
            "requests": 2,
            "tool_calls": 1,
        }
        return await self.agent.client.post(
            f"/api/satellites/{self.agent.id}/client-activity", json={"activities": [activity]}
        )

    async def get(self, path: str, who: Person | None) -> tuple[int, Any]:
        headers = {"Cookie": who.cookie} if who else {}
        async with request(self.port, path, headers=headers) as answer:
            return answer.status, json.loads(await answer.body())

    def stream(self, path: str, who: Person | None, **headers: str):
        before, mark, query = path.partition("?")
        if who is not None:
            headers["Cookie"] = who.cookie
        return request(self.port, f"{before}/stream{mark}{query}", headers={**STREAM, **headers})

    async def statuses(self, path: str, who: Person | None) -> tuple[int, int]:
        """Of the REST half and of the stream."""
        status, _ = await self.get(path, who)
        async with self.stream(path, who) as answer:
            return status, answer.status


@pytest.fixture
async def scene(served: tuple[World, int]) -> Scene:
    return await Scene(*served).set()


FEEDS = ["logs", "notifications", "team", "metrics", "activity"]
EVENTS = {"metrics": "metrics", "activity": "client_activity", "logs": "log"}


@pytest.mark.parametrize("feed", FEEDS)
async def test_the_snapshot_is_the_rest_body_and_then_it_is_live(scene: Scene, feed: str):
    path = scene.paths[feed]
    status, body = await scene.get(path, scene.ann)
    assert status == 200
    async with scene.stream(path, scene.ann) as answer:
        assert answer.status == 200
        snapshot = await answer.next()
        assert snapshot.event == "snapshot"
        assert json.loads(snapshot.data) == body
        assert snapshot.last_event_id == body["position"]
        await scene.add(feed)
        live = await answer.next()
        assert live.event == EVENTS.get(feed, "notification")
    status, after = await scene.get(path, scene.ann)
    collection = next(iter(after))
    assert json.loads(live.data) == after[collection][-1]
    if feed != "activity":
        assert after[collection][:-1] == body[collection]


async def test_both_halves_refuse_the_same(scene: Scene):
    """Nobody, a wrong parameter, and nobody with a wrong parameter: the right comes first."""
    for path in scene.paths.values():
        mark = "&" if "?" in path else "?"
        assert await scene.statuses(path, None) == (401, 401), path
        for limit in ("0", "101", "many"):
            wrong = f"{path}{mark}limit={limit}"
            assert await scene.statuses(wrong, scene.ann) == (422, 422), wrong
            assert await scene.statuses(wrong, None) == (401, 401), wrong
        assert await scene.statuses(f"{path}{mark}limit=1", scene.ann) == (200, 200), path


async def test_what_one_may_not_know_of_does_not_exist(scene: Scene):
    for feed in ("team", "metrics", "activity"):
        path = scene.paths[feed]
        mark = "&" if "?" in path else "?"
        assert await scene.statuses(path, scene.stranger) == (404, 404), path
        assert await scene.statuses(f"{path}{mark}limit=0", scene.stranger) == (404, 404), path
        _, there = await scene.get(path, scene.stranger)
        missing = path.replace(scene.team, "0" * 32).replace(scene.agent.id, "0" * 32)
        _, not_there = await scene.get(missing, scene.stranger)
        assert there["title"] == not_there["title"], path
        assert await scene.statuses(missing, scene.stranger) == (404, 404), path
        assert await scene.statuses(missing, scene.admin) == (404, 404), path


async def test_an_administrator_sees_every_team(scene: Scene):
    for feed in ("team", "metrics", "activity"):
        assert await scene.statuses(scene.paths[feed], scene.admin) == (200, 200), feed


@pytest.mark.long
@pytest.mark.parametrize("feed", FEEDS)
async def test_a_missing_permission(scene: Scene, feed: str, monkeypatch: pytest.MonkeyPatch):
    import headwater.backend.roles as roles

    monkeypatch.setitem(roles.GLOBAL_ROLES, "global_user", frozenset())  # type: ignore[attr-defined]
    path = scene.paths[feed]
    assert await scene.statuses(path, scene.ann) == (403, 403)
    mark = "&" if "?" in path else "?"
    assert await scene.statuses(f"{path}{mark}limit=0", scene.ann) == (403, 403)


@pytest.mark.long
@pytest.mark.parametrize("feed", FEEDS)
async def test_a_satellites_key_shows_no_feed(scene: Scene, feed: str):
    answer = await scene.agent.client.get(scene.paths[feed])
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("path", "field", "allowed"),
    [
        ("logs?level=nope", "level", "warning"),
        ("activity&active_within_minutes=0", "active_within_minutes", "1"),
        ("activity&active_within_minutes=1441", "active_within_minutes", "1440"),
    ],
)
async def test_a_feeds_own_parameters(scene: Scene, path: str, field: str, allowed: str):
    feed, rest = path[: path.index(field) - 1], path[path.index(field) - 1 :]
    path = scene.paths[feed] + rest
    assert await scene.statuses(path, scene.ann) == (422, 422)
    _, problem = await scene.get(path, scene.ann)
    [error] = problem["errors"]
    # A parameter that may be given several times says which of them it was.
    assert error["field"].partition(".")[0] == field
    assert str(error["value"]) == path.rpartition("=")[2]
    assert allowed in error["detail"]


async def test_a_team_must_be_named(scene: Scene):
    path = "/api/users/me/mcp/client-activity"
    assert await scene.statuses(path, scene.ann) == (422, 422)
    assert await scene.statuses(path, None) == (401, 401)


async def test_json_is_not_what_a_stream_is(scene: Scene):
    for path in scene.paths.values():
        async with scene.stream(path, scene.ann, Accept="application/json") as answer:
            assert answer.status == 406, path
            problem = json.loads(await answer.body())
        assert path.partition("?")[0] in json.dumps(problem)


@pytest.mark.parametrize("feed", FEEDS)
async def test_a_position_resumes_and_one_of_another_feed_does_not(scene: Scene, feed: str):
    path = scene.paths[feed]
    _, body = await scene.get(path, scene.ann)
    await scene.add(feed)
    resume = {"Last-Event-ID": body["position"]}
    async with scene.stream(path, scene.ann, **resume) as answer:
        assert (await answer.next()).event == EVENTS.get(feed, "notification")
    other = scene.paths["logs" if feed != "logs" else "team"]
    mark = "&" if "?" in other else "?"
    status, problem = await scene.get(f"{other}{mark}after={body['position']}", scene.ann)
    assert (status, problem["reason"]) == (410, "unknown")
    async with scene.stream(other, scene.ann, **resume) as answer:
        assert (await answer.next()).event == "reset"
        assert (await answer.next()).event == "snapshot"


async def test_filters_are_the_same_on_both_halves(scene: Scene):
    entries = [{"level": level, "source": "x", "message": level} for level in ("error", "info")]
    await scene.ann.client.post("/api/logs", json={"entries": entries})
    path = f"{scene.paths['logs']}?level=error&source=x"
    _, body = await scene.get(path, scene.ann)
    assert [entry["message"] for entry in body["logs"]] == ["error"]
    async with scene.stream(path, scene.ann) as answer:
        assert json.loads((await answer.next()).data) == body
        await scene.ann.client.post("/api/logs", json={"entries": [*entries, *entries]})
        live = [json.loads((await answer.next()).data)["message"] for _ in range(2)]
    assert live == ["error", "error"]


async def test_activity_replaces_and_leaves_no_removal_behind(scene: Scene):
    """A client's new counts are one event, not a removal and a new client."""
    path = scene.paths["activity"]
    async with scene.stream(path, scene.ann) as answer:
        [row] = json.loads((await answer.next()).data)["activities"]
        await scene.add("activity")
        await scene.use("Zed")
        first, second = await answer.next(), await answer.next()
    assert (first.event, second.event) == ("client_activity", "client_activity")
    changed = json.loads(first.data)
    assert (changed["id"], changed["requests"], changed["tool_calls"]) == (row["id"], 4, 2)
    assert json.loads(second.data)["client_name"] == "Zed"
    assert changed["satellite_name"] == "north-1"
