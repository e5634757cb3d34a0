"""A request that is sent again with its ``Idempotency-Key`` is answered again, and done once."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import func, select, update

from headwater.backend.cleanup import Cleanup
from headwater.backend.models import IdempotentRequest
from headwater.backend.times import utc_now
from headwater.errors import SourceUnavailableError
from support.backend import Agent, Person, World, errors_of

LOGS = "/api/logs"
ENTRIES = {"entries": [{"message": "a"}, {"message": "b"}]}
REPORT = {"cpu_percent": 1, "memory_mb": 2, "requests_per_s": 3, "errors_per_s": 4}


async def post(client: httpx.AsyncClient, path: str, body: object, key: str) -> httpx.Response:
    return await client.post(path, json=body, headers={"Idempotency-Key": key})


async def texts(person: Person) -> list[str]:
    page = (await person.client.get("/api/logs?limit=100")).json()
    return [entry["message"] for entry in page["logs"]]


@pytest.fixture
async def agent(world: World, admin: Person) -> Agent:
    return await world.satellite(admin)


async def test_log_entries_are_written_once(ann: Person):
    first = await post(ann.client, LOGS, ENTRIES, "k1")
    again = await post(ann.client, LOGS, ENTRIES, "k1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    page = (await ann.client.get(LOGS)).json()
    assert [entry["id"] for entry in page["logs"]] == first.json()["ids"]


async def test_a_notification_is_sent_once(ann: Person, admin: Person):
    body = {"user_id": ann.id, "level": "info", "title": "once"}
    first = await post(admin.client, "/api/notifications", body, "k1")
    again = await post(admin.client, "/api/notifications", body, "k1")
    assert first.status_code == 201, first.text
    assert first.json() == again.json()
    page = (await ann.client.get("/api/notifications")).json()
    assert [each["id"] for each in page["notifications"]] == [first.json()["id"]]


async def test_metrics_are_reported_once(agent: Agent, ann: Person, admin: Person):
    path, body = f"/api/satellites/{agent.id}/metrics", {"reports": [REPORT, REPORT]}
    first = await post(agent.client, path, body, "k1")
    again = await post(agent.client, path, body, "k1")
    other = await post(agent.client, path, body, "k2")
    assert first.status_code == 201, first.text
    assert first.json() == again.json()
    page = (await admin.client.get(path)).json()
    ids = [each["id"] for each in page["metrics"]]
    assert ids == [*first.json()["ids"], *other.json()["ids"]]


async def test_another_body_with_the_same_key_is_refused(ann: Person, agent: Agent):
    path = f"/api/satellites/{agent.id}/metrics"
    await post(ann.client, LOGS, ENTRIES, "k1")
    await post(agent.client, path, {"reports": [REPORT]}, "k1")
    for answer in (
        await post(ann.client, LOGS, {"entries": [{"message": "c"}]}, "k1"),
        await post(agent.client, path, {"reports": [REPORT, REPORT]}, "k1"),
    ):
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert "another body" in answer.json()["detail"]
    assert await texts(ann) == ["a", "b"]


async def test_a_key_is_of_one_caller_and_one_route(ann: Person, bob: Person, admin: Person):
    for person in (ann, bob):
        assert (await post(person.client, LOGS, ENTRIES, "k1")).status_code == 201
    body = {"user_id": admin.id, "title": "t"}
    assert (await post(admin.client, "/api/notifications", body, "k1")).status_code == 201
    assert (await post(admin.client, LOGS, ENTRIES, "k1")).status_code == 201
    assert await texts(ann) == await texts(bob) == await texts(admin) == ["a", "b"]


async def test_requests_that_come_at_the_same_time_are_done_once(ann: Person, agent: Agent):
    path = f"/api/satellites/{agent.id}/metrics"
    answers = await asyncio.gather(
        *[post(ann.client, LOGS, ENTRIES, "k1") for _ in range(8)],
        *[post(agent.client, path, {"reports": [REPORT]}, "k1") for _ in range(8)],
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers[:8]}) == 1
    assert len({answer.text for answer in answers[8:]}) == 1
    assert await texts(ann) == ["a", "b"]


async def test_a_request_that_was_refused_keeps_no_key(ann: Person, admin: Person, world: World):
    body = {"user_id": "nobody", "title": "t"}
    for _ in range(2):
        answer = await post(admin.client, "/api/notifications", body, "k1")
        assert set(errors_of(answer)) == {"user_id"}
    body["user_id"] = ann.id
    assert (await post(admin.client, "/api/notifications", body, "k1")).status_code == 201


async def test_a_process_that_died_between_append_and_answer_appended_once(
    agent: Agent, admin: Person, world: World, monkeypatch: pytest.MonkeyPatch
):
    path, body = f"/api/satellites/{agent.id}/metrics", {"reports": [REPORT]}

    async def dies(*_):
        raise SourceUnavailableError("The database", "away")

    with monkeypatch.context() as patched:
        patched.setattr(type(world.backend.repeats), "keep", dies)
        assert (await post(agent.client, path, body, "k1")).status_code == 503
    answer = await post(agent.client, path, body, "k1")
    assert answer.status_code == 201
    page = (await admin.client.get(path)).json()
    assert [each["id"] for each in page["metrics"]] == answer.json()["ids"]


async def test_a_key_that_is_used_again_after_its_day_is_a_new_one(
    agent: Agent, ann: Person, admin: Person, world: World
):
    """Also where the event log remembers its keys for longer."""
    path = f"/api/satellites/{agent.id}/metrics"
    await post(agent.client, path, {"reports": [REPORT]}, "k1")
    await post(ann.client, LOGS, ENTRIES, "k1")
    async with world.backend.database.write() as session:
        await session.execute(
            update(IdempotentRequest).values(created_at=utc_now() - timedelta(hours=25))
        )
    await Cleanup(world.backend, grace=0.1).once()
    assert (await post(agent.client, path, {"reports": [REPORT] * 2}, "k1")).status_code == 201
    assert (await post(ann.client, LOGS, {"entries": [{"message": "c"}]}, "k1")).status_code == 201
    assert await texts(ann) == ["a", "b", "c"]
    page = (await admin.client.get(path)).json()
    assert len(page["metrics"]) == 3


async def test_of_too_many_keys_of_a_caller_the_oldest_go(ann: Person, bob: Person, world: World):
    await post(bob.client, LOGS, ENTRIES, "k0")
    for number in range(5):
        await post(ann.client, LOGS, ENTRIES, f"k{number}")
    await world.backend.repeats.remove_old(most=3)
    async with world.backend.database.read() as session:
        kept = await session.scalar(select(func.count()).select_from(IdempotentRequest))
    assert kept == 3 + 1
    # Nobody loses a key for what another one sends.
    await post(bob.client, LOGS, ENTRIES, "k0")
    assert len(await texts(bob)) == 2
    await post(ann.client, LOGS, ENTRIES, "k4")
    assert len(await texts(ann)) == 10


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 201])
async def test_a_key_that_cannot_be_is_named(ann: Person, key: str):
    headers = {"Idempotency-Key": key.encode()}
    answer = await ann.client.post(LOGS, json=ENTRIES, headers=headers)
    assert answer.status_code == 422
    assert [error["in"] for error in answer.json()["errors"]] == ["header"]
    assert await texts(ann) == []


async def test_without_a_right_a_key_tells_nothing(ann: Person, world: World):
    await post(ann.client, LOGS, ENTRIES, "k1")
    assert (await post(world.anyone, LOGS, {"x": 1}, "k1")).status_code == 401


async def test_without_a_key_each_request_is_a_new_one(ann: Person):
    for _ in range(2):
        assert (await ann.client.post(LOGS, json=ENTRIES)).status_code == 201
    assert await texts(ann) == ["a", "b"] * 2


async def test_two_keys_of_one_request_are_none(ann: Person):
    """A proxy and a client may each take another one of them for the right one."""
    headers = [("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    answer = await ann.client.post(LOGS, json=ENTRIES, headers=headers)
    assert "more than once" in errors_of(answer)["Idempotency-Key"]["detail"]
    assert await texts(ann) == []
