"""Feeds over real connections: the pair, positions, rights. The source is the reference log."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from fastapi import Depends, Request
from pydantic import BaseModel

from headwater.delivery import _channel as channel_module
from headwater.delivery import _feed_stream as feed_stream
from headwater.delivery import _ring as ring
from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import LiveRouter, Problem, Source, guard, identify
from support.application import Application
from support.http import poll, request
from support.server import serving
from support.until import until


class Item(BaseModel):
    id: str
    n: int


class Rig:
    """One application with one feed, ``/api/things``, of the topic ``things``."""

    def __init__(self, **options) -> None:
        self.log = MemoryLog()
        self.live = LiveRouter(**options)
        self.app = Application(self.live, prefix="/api")
        self.calls = 0

        @self.live.feed("/things", item=Item, collection="things", event="thing", tags=["t"])
        async def things(topic: str = "things") -> Source:
            self.calls += 1
            return self.log.topic(topic)

        @self.live.feed("/others", item=Item, collection="others", event="other")
        async def others() -> Source:
            return self.log.topic("others")

    async def add(self, *numbers: int, topic: str = "things") -> None:
        await self.log.append(topic, [{"n": number} for number in numbers])


async def body(port, path, **options):
    async with request(port, path, **options) as answer:
        return answer, json.loads(await answer.body() or b"null")


def numbers(messages):
    return [json.loads(m.data)["n"] for m in messages if m.event == "thing"]


async def test_the_snapshot_is_the_rest_body_and_live_items_follow():
    rig = Rig()
    await rig.add(*range(30))
    async with serving(rig.app) as port:
        for query in ("", "?limit=7", "?limit=100"):
            _, page = await body(port, f"/api/things{query}")
            async with request(port, f"/api/things/stream{query}") as answer:
                snapshot = await answer.next()
                assert answer.raw.startswith(b"retry: 2000\n\nevent: snapshot\nid: ")
                assert snapshot.event == "snapshot"
                assert json.loads(snapshot.data) == page
                assert snapshot.last_event_id == page["position"]
                await rig.add(1000)
                item = await answer.next()
                assert (item.event, json.loads(item.data)["n"]) == ("thing", 1000)
                _, page = await body(port, "/api/things?limit=1")
                assert page["position"] == item.last_event_id
                assert page["things"] == [json.loads(item.data)]


async def test_pages_in_both_directions_hold_everything_once():
    rig = Rig()
    await rig.add(*range(25))
    async with serving(rig.app) as port:
        _, page = await body(port, "/api/things?limit=10")
        seen = [item["n"] for item in page["things"]]
        while page["has_more"]:
            _, page = await body(port, f"/api/things?limit=10&before={page['start']}")
            seen = [item["n"] for item in page["things"]] + seen
        assert seen == list(range(25))
        seen = [item["n"] for item in page["things"]]
        page["has_more"] = True
        while page["has_more"]:
            _, page = await body(port, f"/api/things?limit=10&after={page['position']}")
            seen += [item["n"] for item in page["things"]]
        assert seen == list(range(25))


@pytest.mark.parametrize("how", ["header", "after", "lastEventId"])
async def test_a_returning_client_gets_exactly_what_it_missed_and_no_snapshot(how):
    rig = Rig()
    await rig.add(1, 2)
    async with serving(rig.app) as port:
        async with request(port, "/api/things/stream") as answer:
            last = (await answer.next()).last_event_id
        await rig.add(3, 4, 5)
        path = "/api/things/stream" + ("" if how == "header" else f"?{how}={last}")
        headers = {"Last-Event-ID": last} if how == "header" else {}
        async with request(port, path, headers=headers) as answer:
            first = [await answer.next() for _ in range(3)]
            await rig.add(6)
            assert numbers([*first, await answer.next()]) == [3, 4, 5, 6]


async def test_twenty_streams_that_disconnect_at_random_get_each_item_once_in_order():
    rig = Rig()
    done = asyncio.Event()
    total = 600

    async def write():
        number = 0
        while number < total:
            batch = random.randint(1, 7)
            await rig.add(*range(number, min(number + batch, total)))
            number += batch
            await asyncio.sleep(0)
        done.set()

    async def follow(port, seed):
        chance = random.Random(seed)
        seen, last = [], None
        while len(seen) < total:
            headers = {"Last-Event-ID": last} if last else {}
            async with request(port, "/api/things/stream?limit=1", headers=headers) as answer:
                for _ in range(chance.randint(1, 80)):
                    message = await answer.next()
                    last = message.last_event_id
                    if message.event == "snapshot":
                        seen += [item["n"] for item in json.loads(message.data)["things"]]
                    else:
                        assert message.event == "thing"
                        seen += numbers([message])
                    if len(seen) >= total:
                        break
        return seen

    async with serving(rig.app) as port:
        streams = [asyncio.create_task(follow(port, seed)) for seed in range(20)]
        await until(lambda: rig.live.stats.open >= 10)
        await write()
        for stream in streams:
            assert await asyncio.wait_for(stream, 60) == list(range(total))
        await until(lambda: rig.live.stats.open == 0)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("nonsense", "unknown"),
        ("x" * 5000, "unknown"),
        ("größe", "unknown"),
        ("other feed", "unknown"),
        ("other database", "unknown"),
        ("future", "unknown"),
        ("expired", "expired"),
    ],
)
async def test_a_position_that_cannot_be_resumed_is_a_reset_and_410(token, reason):
    rig = Rig()
    await rig.add(1, 2, 3)
    await rig.add(1, topic="others")
    async with serving(rig.app) as port:
        _, page = await body(port, "/api/things?limit=1")
        version, feed, epoch, place = page["position"].split(".")
        if token == "other feed":
            _, other = await body(port, "/api/others")
            token = other["position"]
        elif token == "other database":
            token = f"{version}.{feed}.0123456789abcdef.{place}"
        elif token == "future":
            token = f"{version}.{feed}.{epoch}.999"
        elif token == "expired":
            _, whole = await body(port, "/api/things")
            token = whole["start"]
            await rig.add(4, 5)
            await rig.log.trim("things", max_count=1)
        headers = {"Last-Event-ID": token.encode()}
        async with request(port, "/api/things/stream", headers=headers) as answer:
            first, second = await answer.next(), await answer.next()
            assert (first.event, json.loads(first.data)) == ("reset", {"reason": reason})
            assert b"id:" not in answer.raw[: answer.raw.index(b"event: snapshot")]
            assert second.event == "snapshot"
            assert rig.live.stats.resets == 1
        if token.isascii():
            answer, problem = await body(port, f"/api/things?after={token}")
            assert answer.status == 410
            assert answer.headers["content-type"] == "application/problem+json"
            assert problem["reason"] == reason


async def test_a_poll_whose_etag_is_current_is_answered_304():
    rig = Rig()
    await rig.add(1)
    async with serving(rig.app) as port:
        answer, _ = await body(port, "/api/things")
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            async with request(port, "/api/things", headers={"If-None-Match": known}) as answer:
                assert answer.status == 304
                assert answer.headers["etag"] == tag
        async with request(port, "/api/things?limit=5", headers={"If-None-Match": tag}) as answer:
            assert answer.status == 200
        await rig.add(2)
        async with request(port, "/api/things", headers={"If-None-Match": tag}) as answer:
            assert answer.status == 200


async def test_a_poll_that_is_current_reads_no_page_while_somebody_follows(monkeypatch):
    rig = Rig()
    await rig.add(1)
    read = []
    latest = rig.log.latest

    async def counted(topic, *where):
        read.append(topic)
        return await latest(topic, *where)

    monkeypatch.setattr(rig.log, "latest", counted)

    async with serving(rig.app) as port:
        _, tag = await poll(port, "/api/things", "none")
        assert {await poll(port, "/api/things", tag) for _ in range(3)} == {(304, tag)}
        assert len(read) == 4  # nobody follows
        async with request(port, "/api/things/stream") as stream:
            await stream.next()
            assert await poll(port, "/api/things", tag) == (304, tag)
            read.clear()
            assert {await poll(port, "/api/things", tag) for _ in range(3)} == {(304, tag)}
            assert not read
            await rig.add(2)
            status, now = await poll(port, "/api/things", tag)
            assert (status, now != tag) == (200, True)
            assert await poll(port, "/api/things", now) == (304, now)
            assert len(read) == 1


async def test_a_long_poll_answers_as_soon_as_an_item_comes():
    rig = Rig()
    await rig.add(1)
    async with serving(rig.app) as port:
        _, page = await body(port, "/api/things")
        path = f"/api/things?after={page['position']}&wait="
        _, nothing = await body(port, path + "0.05")
        assert nothing["things"] == []
        waiting = asyncio.create_task(body(port, path + "30"))
        await until(lambda: rig.calls >= 3)
        await rig.add(2)
        _, page = await asyncio.wait_for(waiting, 5)
        assert [item["n"] for item in page["things"]] == [2]
        answer, _ = await body(port, path + "61")
        assert answer.status == 422


async def test_a_stream_that_cannot_keep_up_loses_nothing_and_no_one_waits(monkeypatch):
    """It goes on from the ring or, when that no longer reaches back, from the source."""
    monkeypatch.setattr(ring, "RING_FRAMES", 50)
    monkeypatch.setattr(channel_module, "ROOM", 8 * 1024)
    monkeypatch.setattr(feed_stream, "ROOM", 8 * 1024)
    rig = Rig()
    rounds, size = 40, 50

    @rig.live.feed("/fat", item=dict, event="fat")
    async def fat() -> Source:
        return rig.log.topic("fat")

    async with (
        serving(rig.app) as port,
        request(port, "/api/fat/stream", receive_buffer=4096) as slow,
        request(port, "/api/fat/stream") as fast,
    ):
        await slow.next()
        await fast.next()
        expected = 0
        for number in range(rounds):
            pad = "x" * 2000
            await rig.log.append("fat", [{"n": number * size + i, "pad": pad} for i in range(size)])
            for _ in range(size):
                assert json.loads((await fast.next()).data)["n"] == expected
                expected += 1
        for number in range(rounds * size):
            assert json.loads((await slow.next()).data)["n"] == number
        assert rig.live.stats.reread >= 1


@pytest.mark.long
async def test_memory_for_a_stream_that_does_not_read_is_bounded(monkeypatch):
    rig = Rig()
    async with (
        serving(rig.app) as port,
        request(port, "/api/things/stream", receive_buffer=4096) as slow,
    ):
        await slow.next()
        (stream,) = rig.live.hub.streams
        highest = 0
        for number in range(300):
            await rig.add(*range(number * 100, number * 100 + 100))
            await asyncio.sleep(0)
            highest = max(highest, stream.sender.pending)
        assert highest < 256 * 1024
        for number in range(30_000):
            message = await slow.next()
            assert numbers([message]) == [number]


class Rights:
    """A guard whose answer the test decides."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.asked = 0
        self.topics = {"a"}

    def __call__(self, request: Request) -> None:
        self.asked += 1
        identify(request, "user:1")
        if self.status is not None:
            raise Problem(self.status, "no")


def guarded(rights: Rights, **options) -> Rig:
    rig = Rig(requires=lambda permission: guard(rights, permission), **options)

    @rig.live.feed("/mine", item=Item, event="thing", requires="things.view")
    async def mine(level: int = 0) -> Source:
        return rig.log.topic("-".join(sorted(rights.topics)))

    return rig


@pytest.mark.parametrize(("status", "told"), [(401, 401), (403, 403), (404, 403)])
async def test_a_stream_that_lost_its_right_ends_at_once(status, told):
    rights = Rights()
    rig = guarded(rights)
    async with serving(rig.app) as port, request(port, "/api/mine/stream") as answer:
        await answer.next()
        rights.status = status
        await rig.live.recheck("user:2")
        assert not answer.ended
        await rig.live.recheck("user:1")
        (last,) = await answer.rest()
        assert (last.event, json.loads(last.data)) == ("error", {"status": told})
        assert rig.live.stats.denied == 1


async def test_rights_are_asked_again_without_being_told():
    rights = Rights()
    rig = guarded(rights, recheck=0.05)
    async with serving(rig.app) as port, request(port, "/api/mine/stream") as answer:
        await answer.next()
        rights.status = 403
        (last,) = await answer.rest()
        assert json.loads(last.data) == {"status": 403}


async def test_streams_that_are_alike_are_asked_once():
    rights = Rights()
    rig = guarded(rights)
    async with serving(rig.app) as port:
        answers = []
        for _ in range(5):
            context = request(port, "/api/mine/stream", headers={"Cookie": "session=1"})
            answers.append((context, await context.__aenter__()))
        asked = rights.asked
        await rig.live.recheck("user:1")
        assert rights.asked == asked + 1
        for context, _ in answers:
            await context.__aexit__(None, None, None)


async def test_a_stream_whose_selection_changes_is_sent_to_resume():
    rights = Rights()
    rig = guarded(rights)
    async with serving(rig.app) as port, request(port, "/api/mine/stream") as answer:
        await answer.next()
        await rig.live.recheck("user:1")
        rights.topics.add("b")
        await rig.live.recheck("user:1")
        assert await answer.rest() == []
        assert 50 <= (answer.retry or 0) <= 250


@pytest.mark.parametrize("half", ["", "/stream"])
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_the_right_is_decided_before_parameters_are_looked_at(half, status):
    rights = Rights()
    rights.status = status
    rig = guarded(rights)
    async with serving(rig.app) as port:
        for query in ("", "?limit=0", "?level=x", "?after=zzz"):
            async with request(port, f"/api/mine{half}{query}") as answer:
                assert answer.status == status
        rights.status = None
        for query in ("?limit=0", "?limit=101", "?level=x"):
            async with request(port, f"/api/mine{half}{query}") as answer:
                assert answer.status == 422
                problem = json.loads(await answer.body())
                assert problem["errors"][0]["field"] in query
                assert problem["errors"][0]["value"] == query.split("=")[1]


async def test_a_malformed_body_does_not_come_before_the_right():
    rights = Rights()
    rig = guarded(rights)

    @rig.live.post("/do", dependencies=[guard(rights)])
    async def do(item: Item): ...

    async with serving(rig.app) as port:
        for status in (401, None):
            rights.status = status
            async with request(
                port,
                "/api/do",
                method="POST",
                body=b"{",
                headers={"Content-Type": "application/json"},
            ) as answer:
                assert answer.status == (status or 422)


async def test_asking_for_json_on_a_stream_names_the_rest_twin():
    rig = Rig()
    async with serving(rig.app) as port:
        answer, problem = await body(
            port, "/api/things/stream", headers={"Accept": "application/json"}
        )
        assert answer.status == 406
        assert problem["rest"] == "/api/things"
        assert "GET /api/things " in problem["detail"]


async def test_head_answers_both_halves():
    rig = Rig()
    async with serving(rig.app) as port:
        async with request(port, "/api/things", method="HEAD") as answer:
            assert answer.status == 200
            assert "etag" in answer.headers
            length = answer.headers["content-length"]
        async with request(port, "/api/things") as answer:
            assert answer.headers["content-length"] == length
        async with request(port, "/api/things/stream", method="HEAD") as answer:
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            # RFC 9110, 8.6: it is that of the answer to GET, or left out.
            assert "content-length" not in answer.headers
        assert rig.live.stats.opened == 0


async def test_a_wiped_log_starts_every_stream_anew():
    rig = Rig()
    await rig.add(1, 2)
    async with serving(rig.app) as port, request(port, "/api/things/stream") as answer:
        await answer.next()
        await rig.log.trim("things", max_count=0)
        await rig.add(3)
        assert numbers([await answer.next()]) == [3]


async def test_an_item_that_does_not_fit_is_not_passed_over_in_silence(caplog):
    rig = Rig()
    async with serving(rig.app) as port, request(port, "/api/things/stream") as answer:
        await answer.next()
        await rig.log.append("things", [{"n": "not a number"}])
        (last,) = await answer.rest()
        assert json.loads(last.data) == {"status": 500}
    assert "cannot show the item" in caplog.text


async def test_dependencies_are_released_before_a_stream_or_a_long_poll_waits():
    state = []
    rig = Rig()

    async def session():
        state.append("open")
        yield
        state.append("closed")

    @rig.live.feed("/held", item=Item)
    async def held(db=Depends(session)) -> Source:
        return rig.log.topic("held")

    async with serving(rig.app) as port:
        async with request(port, "/api/held/stream") as answer:
            await answer.next()
            assert state == ["open", "closed"]
        state.clear()
        waiting = asyncio.create_task(body(port, "/api/held?wait=20"))
        await until(lambda: state == ["open", "closed"])
        assert not waiting.done()
        await rig.add(1, topic="held")
        await asyncio.wait_for(waiting, 5)


def test_what_cannot_work_is_refused_where_it_is_declared():
    live = LiveRouter()

    async def call(limit: int) -> Source: ...

    with pytest.raises(DeclarationError, match="parameter 'limit'"):
        live.feed("/a", item=Item)(call)
    with pytest.raises(DeclarationError, match="'/stream' is added"):
        live.feed("/a/stream", item=Item)
    with pytest.raises(DeclarationError, match="event='snapshot'"):
        live.feed("/a", item=Item, event="snapshot")
    with pytest.raises(DeclarationError, match="collection='position'"):
        live.feed("/a", item=Item, collection="position")
    with pytest.raises(DeclarationError, match="limit=101"):
        live.feed("/a", item=Item, limit=101)
    with pytest.raises(DeclarationError, match=r"LiveRouter\(requires="):
        live.feed("/a", item=Item, requires="x.view")


def test_openapi_describes_both_halves():
    rights = Rights()
    rig = guarded(rights)
    rig.live.install(rig.app, problems="application", openapi="3.2")
    document = rig.app.openapi()
    assert document["openapi"] == "3.2.0"
    paths = document["paths"]
    rest, stream = paths["/api/things"]["get"], paths["/api/things/stream"]["get"]
    names = [[p["name"] for p in half["parameters"]] for half in (rest, stream)]
    assert set(names[0]) == {"topic", "limit", "after", "before", "wait"}
    assert set(names[1]) == {"topic", "limit", "after", "before", "heartbeat"}
    content = stream["responses"]["200"]["content"]
    assert list(content) == ["text/event-stream"]
    branches = content["text/event-stream"]["itemSchema"]["oneOf"]
    events = {branch["properties"]["event"]["const"]: branch for branch in branches}
    assert set(events) == {"snapshot", "thing", "reset", "error"}
    assert events["thing"]["properties"]["data"]["contentSchema"] == {
        "$ref": "#/components/schemas/Item"
    }
    assert "id" not in events["reset"]["properties"]
    page = rest["responses"]["200"]["content"]["application/json"]["schema"]
    assert events["snapshot"]["properties"]["data"]["contentSchema"] == page
    for status in ("401", "403"):
        assert status in paths["/api/mine/stream"]["get"]["responses"]
    assert "HTTPValidationError" not in json.dumps(document)
    assert "head" not in paths["/api/things"]


@pytest.mark.parametrize("half", ["", "/stream"])
async def test_a_guard_may_also_give_the_handler_its_value(half):
    """It is the way most people have their current user."""

    async def current_user(request: Request) -> str:
        if "x-user" not in request.headers:
            raise Problem(401, "who are you?")
        return request.headers["x-user"]

    rig = Rig()

    @rig.live.feed("/mine", item=Item, requires=Depends(current_user))
    async def mine(user: str = Depends(current_user)) -> Source:
        return rig.log.topic(user)

    async with serving(rig.app) as port:
        async with request(port, f"/api/mine{half}?limit=0") as answer:
            assert answer.status == 401
        async with request(port, f"/api/mine{half}", headers={"X-User": "ann"}) as answer:
            assert answer.status == 200


async def test_after_and_before_together_are_refused_and_a_bad_before_resets_a_stream():
    rig = Rig()
    await rig.add(1)
    async with serving(rig.app) as port:
        _, page = await body(port, "/api/things")
        token = page["position"]
        answer, problem = await body(port, f"/api/things?after={token}&before={token}")
        assert (answer.status, problem["errors"][0]["field"]) == (422, "before")
        async with request(port, "/api/things/stream?before=nonsense") as answer:
            assert (await answer.next()).event == "reset"
            assert (await answer.next()).event == "snapshot"
