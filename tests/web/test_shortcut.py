"""A stream's path that is known takes a shorter way through the framework, to the same answer."""

from __future__ import annotations

import asyncio
import json

import pytest
import uvloop
from fastapi import FastAPI
from starlette.middleware.exceptions import ExceptionMiddleware

from headwater.eventlog import MemoryLog
from headwater.web import shortcut
from headwater.web.fastapi import LiveRouter, Problem, Source, guard
from support.http import request
from support.server import serving

OURS = "headwater.web.uvicorn:Protocol"


class Remember:
    """Middleware that keeps what routing wrote into the scopes."""

    def __init__(self, app, seen) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
        if scope["type"] == "http":
            names = ("router", "route", "endpoint", "path_params", "fastapi", "app")
            self.seen.append({name: scope.get(name) for name in names})


class Rig:
    def __init__(self) -> None:
        self.log = MemoryLog()
        self.app = FastAPI()
        self.live = LiveRouter()
        self.live.install(self.app, prefix="/api")
        self.seen = []
        self.app.add_middleware(Remember, seen=self.seen)
        self.refuse = None

        async def allowed() -> None:
            if self.refuse is not None:
                raise self.refuse

        self.allowed = allowed

        @self.live.feed("/things/{kind}", item=dict, requires=guard(allowed))
        async def things(kind: str, deep: bool = False) -> Source:
            return self.log.topic(f"{kind}:{deep}")


@pytest.fixture
def long_ways(monkeypatch):
    """How many requests passed through all layers of the framework."""
    passed = []
    call = ExceptionMiddleware.__call__

    async def counted(self, scope, receive, send):
        if scope["type"] == "http":
            passed.append(scope)
        await call(self, scope, receive, send)

    monkeypatch.setattr(ExceptionMiddleware, "__call__", counted)
    return passed


async def opened(port, path="/api/things/a/stream"):
    """The status and what the stream began with, but for its positions."""
    async with request(port, path) as answer:
        if answer.status != 200:
            return answer.status, await answer.body()
        snapshot = await answer.next()
        items = [item["n"] for item in json.loads(snapshot.data)["items"]]
        return answer.status, items, answer.headers["content-type"]


async def test_a_known_path_is_answered_alike_on_a_shorter_way(long_ways):
    rig = Rig()
    await rig.log.append("a:False", [{"n": 1}])
    await rig.log.append("b:False", [{"n": 2}])
    async with serving(rig.app, http=OURS) as port:
        first = await opened(port)
        assert first[:2] == (200, [1])
        assert await opened(port) == first
        assert len(long_ways) == 1
        # Middleware finds in the scope what it found the first time.
        before, after = rig.seen
        assert before == after
        assert after["path_params"] == {"kind": "a"}
        assert after["fastapi"] is not before["fastapi"]
        # Another one is another path, and its query is its own.
        assert (await opened(port, "/api/things/b/stream"))[1] == [2]
        assert (await opened(port, "/api/things/a/stream?deep=true"))[1] == []


@pytest.mark.parametrize("query", ["?deep=maybe", "?limit=0", "?limit=ten&deep=2"])
async def test_what_is_wrong_is_told_alike(long_ways, query):
    rig = Rig()
    path = "/api/things/a/stream"
    async with serving(rig.app, http=OURS) as port:
        wrong = await opened(port, path + query)
        assert wrong[0] == 422
        await opened(port)
        assert await opened(port, path + query) == wrong
        async with request(port, path, headers={"Accept": "text/html"}) as answer:
            assert answer.status == 406
            assert answer.headers["content-type"] == "application/problem+json"


async def test_rights_are_asked_each_time(long_ways):
    rig = Rig()
    async with serving(rig.app, http=OURS) as port:
        assert (await opened(port))[0] == 200
        for status in (401, 403, 404):
            rig.refuse = Problem(status, "no")
            found, body = await opened(port)
            assert (found, json.loads(body)["detail"]) == (status, "no")
            # Before anything else of the request is looked at.
            assert (await opened(port, "/api/things/a/stream?limit=0"))[0] == status
        rig.refuse = RuntimeError("a fault")
        assert (await opened(port))[0] == 500
        rig.refuse = None
        assert (await opened(port))[0] == 200


async def test_routes_and_overrides_that_come_later_count(long_ways):
    rig = Rig()

    async def instead() -> dict[str, str]:
        return {"instead": "of it"}

    async def refused() -> None:
        raise Problem(403, "no")

    async with serving(rig.app, http=OURS) as port:
        assert (await opened(port))[0] == 200
        rig.app.dependency_overrides[rig.allowed] = refused
        assert (await opened(port))[0] == 403
        rig.app.dependency_overrides.clear()
        del long_ways[:]
        rig.live.get("/things/late/stream")(instead)
        for _ in range(2):
            assert (await opened(port))[0] == 200
        assert len(long_ways) == 1
        rig.app.add_api_route("/api/things/a/stream", instead)
        rig.app.router.routes.insert(0, rig.app.router.routes.pop())
        async with request(port, "/api/things/a/stream") as answer:
            assert json.loads(await answer.body()) == {"instead": "of it"}


async def test_an_application_within_another_is_found(long_ways):
    rig = Rig()
    await rig.log.append("a:False", [{"n": 1}])
    outer = FastAPI()
    outer.mount("/inner/{name}", rig.app)
    async with serving(outer, http=OURS, lifespan="off") as port:
        for _ in range(2):
            assert (await opened(port, "/inner/x/api/things/a/stream"))[1] == [1]
        assert rig.seen[-1]["path_params"] == {"name": "x", "kind": "a"}


async def test_the_paths_that_are_kept_are_bounded(long_ways, monkeypatch):
    monkeypatch.setattr(shortcut, "_MOST", 2)
    rig = Rig()
    async with serving(rig.app, http=OURS) as port:
        for kind in ("a", "b", "c", "b", "c", "a"):
            assert (await opened(port, f"/api/things/{kind}/stream"))[0] == 200
        # The oldest made room: it was found anew.
        assert len(long_ways) == 4


def test_the_ends_of_a_connection_are_told_as_uvicorn_tells_them():
    async def app(scope, _receive, send):
        told = json.dumps([scope["server"], scope["client"], scope["scheme"]]).encode()
        head = [(b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": told})

    async def main() -> None:
        async with serving(app, http=OURS, lifespan="off") as port:
            for _ in range(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                body = (await reader.read()).partition(b"\r\n\r\n")[2]
                here = writer.get_extra_info("sockname")
                assert json.loads(body) == [["127.0.0.1", port], list(here), "http"]
                writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
