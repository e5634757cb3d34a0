"""What the HTTP page of the reference says, asked of a running feed."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from headwater.eventlog import MemoryLog
from headwater.web.fastapi import LiveRouter, Source
from support.http import request
from support.markdown import ROOT, blocks
from support.server import serving

PAGE = ROOT / "docs" / "reference" / "http.md"


class Entry(BaseModel):
    id: str
    level: str


def application(**options: Any) -> tuple[FastAPI, MemoryLog]:
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()
    live.install(app, **options)

    @live.feed("/logs", item=Entry, collection="logs", event="log")
    async def logs() -> Source:
        return log.topic("logs")

    app.include_router(live, prefix="/api")
    app.state.live = live
    return app, log


async def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with request(port, path, headers=sent) as answer:
        body = await answer.body()
        return answer.status, answer.headers, json.loads(body) if body else None


async def test_pages_positions_and_waiting():
    app, log = application()
    await log.append("logs", [{"level": str(n)} for n in range(5)])
    async with serving(app) as port:
        status, headers, page = await get(port, "/api/logs?limit=2")
        shown = json.loads(next(b.code for b in blocks(PAGE) if b.language == "json"))
        assert (status, list(page)) == (200, list(shown))
        assert headers["cache-control"] == "private, no-cache"
        status, _, body = await get(port, "/api/logs?limit=2", If_None_Match=headers["etag"])
        assert (status, body) == (304, None)

        seen = page["logs"]
        while page["has_more"]:
            _, _, page = await get(port, f"/api/logs?limit=2&before={page['start']}")
            seen = page["logs"] + seen
        assert [entry["level"] for entry in seen] == list("01234")

        end = (await get(port, "/api/logs"))[2]["position"]
        assert len(end) <= 2048
        waiting = asyncio.create_task(get(port, f"/api/logs?after={end}&wait=30"))
        await log.append("logs", {"level": "5"})
        _, _, page = await waiting
        assert [entry["level"] for entry in page["logs"]] == ["5"]


async def test_positions_that_cannot_be_resumed():
    app, _ = application()
    async with serving(app) as port:
        status, _, problem = await get(port, "/api/logs?after=nonsense")
        assert (status, problem["reason"]) == (410, "unknown")
        both = (await get(port, "/api/logs"))[2]
        query = f"after={both['position']}&before={both['start']}"
        assert (await get(port, f"/api/logs?{query}"))[0] == 422
        async with request(port, "/api/logs/stream?lastEventId=nonsense") as answer:
            reset, snapshot = await answer.next(), await answer.next()
            assert (reset.event, reset.data) == ("reset", '{"reason":"unknown"}')
            assert (reset.last_event_id, snapshot.event) == ("", "snapshot")


async def test_who_wins_when_a_stream_is_given_several_positions():
    app, log = application()
    async with serving(app) as port:
        places = []
        for number in range(4):
            page = (await get(port, "/api/logs"))[2]
            places.append(page["position"])
            await log.append("logs", {"level": str(number)})
        page = (await get(port, "/api/logs"))[2]
        query = f"lastEventId={places[1]}&after={places[2]}&before={page['start']}"
        async with request(
            port, f"/api/logs/stream?{query}", headers={"Last-Event-ID": places[0]}
        ) as answer:
            assert json.loads((await answer.next()).data)["level"] == "0"
        async with request(port, f"/api/logs/stream?{query}") as answer:
            assert json.loads((await answer.next()).data)["level"] == "1"
        query = query.partition("&")[2]
        async with request(port, f"/api/logs/stream?{query}") as answer:
            assert json.loads((await answer.next()).data)["level"] == "2"


async def test_negotiation_and_headers():
    app, _ = application()
    async with serving(app) as port:
        for accept in ("text/event-stream", "text/*", "*/*"):
            async with request(port, "/api/logs/stream", headers={"Accept": accept}) as answer:
                assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert answer.headers["cache-control"] == "no-cache, no-transform"
                assert answer.headers["x-accel-buffering"] == "no"
        for accept in ("application/json", "text/event-stream;q=0"):
            status, headers, problem = await get(port, "/api/logs/stream", Accept=accept)
            assert status == 406
            assert headers["content-type"] == "application/problem+json"
            assert "/api/logs" in problem["detail"]
        for path in ("/api/logs", "/api/logs/stream"):
            async with request(port, path, method="HEAD") as answer:
                assert answer.status == 200


async def test_an_error_names_the_field_the_value_and_what_is_allowed():
    app, _ = application()
    shown = json.loads([b.code for b in blocks(PAGE) if b.language == "json"][1])
    async with serving(app) as port:
        status, headers, problem = await get(port, "/api/logs?limit=0")
        assert (status, headers["content-type"]) == (422, "application/problem+json")
        # The title is the status's phrase, which differs between versions of Python.
        assert {**problem, "title": ""} == {**shown, "title": ""}


@pytest.mark.parametrize(
    ("options", "version", "member"),
    [({}, "3.1.", "schema"), ({"openapi": "3.2"}, "3.2.", "itemSchema")],
)
async def test_openapi_says_what_events_there_are(options, version, member):
    app, _ = application(**options)
    async with serving(app) as port:
        document = (await get(port, "/openapi.json"))[2]
        assert document["openapi"].startswith(version)
        answer = document["paths"]["/api/logs/stream"]["get"]["responses"]["200"]

        def resolved(schema: Any) -> Any:
            name = schema.get("$ref", "").rpartition("/")[2]
            return document["components"]["schemas"][name] if name else schema

        events = resolved(answer["content"]["text/event-stream"][member])
        branches = [resolved(branch) for branch in events["oneOf"]]
        names = [branch["properties"]["event"]["const"] for branch in branches]
        assert names == ["snapshot", "log", "reset", "error"]


async def test_a_stream_that_cannot_be_opened_just_now():
    app, _ = application()
    shown = next(b.code for b in blocks(PAGE) if "shutting down" in b.code)
    async with serving(app) as port:
        await app.state.live.drain(spread=0.0)
        async with request(port, "/api/logs/stream") as answer:
            body = (await answer.body()).decode()
            assert answer.status == 200
            assert int(answer.headers["retry-after"]) >= 1
        assert re.sub(r"\d+", "0", body) == re.sub(r"\d+", "0", shown)
