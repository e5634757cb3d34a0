"""Who follows what: for administrators alone, and what they can do about it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headwater.backend.settings import Settings
from support.backend import Person, World, errors_of, listening
from support.http import request
from support.until import until


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
        assert answer["workers"] == [os.getpid()] == [first["worker"]]
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


@contextmanager
def another_process(settings: Settings) -> Iterator[int]:
    """A server with an event loop of its own, as another process has. Gives its port."""
    ports: list[int] = []
    serves, ends = threading.Event(), threading.Event()

    async def serve() -> None:
        async with listening(settings) as (_, port):
            ports.append(port)
            serves.set()
            await asyncio.to_thread(ends.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert serves.wait(20)
        yield ports[0]
    finally:
        ends.set()
        thread.join(20)


async def test_streams_of_all_processes_are_listed_and_closed(
    served: tuple[World, int], settings: Settings
):
    """Whichever process a request comes to, an administrator sees the same."""
    world, port = served
    admin, ann = await world.admin(), await world.user("ann")
    own = {"Cookie": ann.cookie}

    async def listed(query: str = "") -> Any:
        return (await admin.client.get(f"/api/streams{query}")).json()

    async def open_are(count: int) -> bool:
        answer = await listed()
        return answer["open"] == len(answer["streams"]) == count

    with another_process(settings) as other:
        async with (
            request(port, "/api/logs/stream", headers=own) as here,
            request(other, "/api/logs/stream", headers=own) as there,
        ):
            await here.next()
            await there.next()
            await until(lambda: open_are(2))
            page = await listed("?limit=1")
            assert (len(page["workers"]), len(page["streams"]), page["has_more"]) == (2, 1, True)
            rest = await listed(f"?after={page['streams'][0]['id']}")
            assert (len(rest["streams"]), rest["has_more"]) == (1, False)
            assert {each["email"] for each in rest["streams"]} == {ann.email}
            tails = (await admin.client.get("/api/tails")).json()
            shown = [each["name"] for each in tails["tails"] if sum(each["streams"].values())]
            assert len(shown) == 2
            for stream in (page["streams"][0], rest["streams"][0]):
                answer = await admin.client.delete(f"/api/streams/{stream['id']}")
                assert answer.status_code == 204
            assert await here.rest() == await there.rest() == []
    assert await open_are(0)
    assert (await listed())["workers"] == [os.getpid()]
