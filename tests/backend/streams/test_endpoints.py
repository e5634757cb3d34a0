"""Who follows what: for administrators alone, and what they can do about it."""

from __future__ import annotations

from support.backend import Person, World, errors_of
from support.http import request


async def test_an_administrator_sees_each_stream_and_closes_one(served: tuple[World, int]):
    world, port = served
    admin, ann = await world.admin(), await world.user("ann")
    own = {"Cookie": ann.cookie}
    async with (
        request(port, "/api/logs/stream?level=error", headers=own) as one,
        request(port, "/api/notifications/stream", headers=own) as two,
    ):
        position = (await one.next()).last_event_id
        await two.next()
        answer = (await admin.client.get("/api/streams")).json()
        assert (answer["open"], answer["dropped"], answer["has_more"]) == (2, 0, False)
        first, second = answer["streams"]
        assert (first["user_id"], first["email"]) == (ann.id, ann.email)
        assert (first["address"], first["client"]) == (
            "/api/logs/stream?level=error",
            "127.0.0.1",
        )
        assert (first["position"], first["lag"]) == (position, 0)
        tails = (await admin.client.get("/api/tails")).json()["tails"]
        shown = {feed: count for tail in tails for feed, count in tail["streams"].items()}
        assert shown == {first["feed"]: 1, second["feed"]: 1}

        page = (await admin.client.get("/api/streams?limit=1")).json()
        assert [each["id"] for each in page["streams"]] == [first["id"]]
        assert page["has_more"]
        after = (await admin.client.get(f"/api/streams?after={first['id']}")).json()
        assert [each["id"] for each in after["streams"]] == [second["id"]]

        assert (await admin.client.delete(f"/api/streams/{first['id']}")).status_code == 204
        assert await one.rest() == []
        assert one.retry is not None
    assert (await admin.client.delete(f"/api/streams/{first['id']}")).status_code == 404


async def test_nobody_else_sees_or_closes_streams(world: World, ann: Person):
    for path in ("/api/streams", "/api/tails"):
        assert (await ann.client.get(path)).status_code == 403
        assert (await world.anyone.get(path)).status_code == 401
    assert (await ann.client.delete("/api/streams/1")).status_code == 403


async def test_a_place_in_the_list_that_is_none(admin: Person):
    assert set(errors_of(await admin.client.get("/api/streams?after=x"))) == {"after"}
