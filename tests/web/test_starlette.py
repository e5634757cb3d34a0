"""Pairs in Starlette alone: the same pages, streams, rights and problems, without FastAPI."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.testing import LiveClient
from headwater.web.starlette import SSE, EventStream, LiveRoutes, Source, identify
from support.http import request
from support.server import serving


class Item(BaseModel):
    n: int


class Rig:
    """One Starlette application with a feed, ``/api/{team}/notes``, and streams."""

    def __init__(self, **handlers) -> None:
        self.log = MemoryLog()
        self.live = LiveRoutes(heartbeat=None)
        self.denied: dict[str, int] = {}

        async def signed_in(request: Request) -> None:
            user = request.headers.get("x-user")
            if user is None:
                raise HTTPException(401, "who are you?")
            identify(request, f"user:{user}")

        def allowed(request: Request) -> None:
            """A plain function, which runs in a thread."""
            user = request.headers["x-user"]
            if user in self.denied:
                raise HTTPException(self.denied[user])

        guards = [signed_in, allowed]

        @self.live.feed(
            "/{team}/notes",
            item=Item,
            collection="notes",
            event="note",
            guards=guards,
        )
        async def notes(request: Request) -> Source:
            return self.log.topic(request.path_params["team"])

        @self.live.stream("/ticks", guards=guards)
        async def ticks(request: Request, stream: EventStream) -> None:
            await stream.send(request.url.path)
            stream.keep_alive()

        @self.live.stream("/dual", sse=SSE(kind="dual"))
        async def dual(_: Request, stream: EventStream | None) -> Response | None:
            if stream is None:
                return JSONResponse({"plain": True})
            await stream.send("streamed")
            return None

        self.app = Starlette(
            routes=[Mount("/api", routes=self.live.routes)],
            lifespan=self.live.lifespan,
            exception_handlers=handlers.get("handlers"),
        )


ANN = {"X-User": "ann"}


async def test_both_halves_show_the_same_and_a_stream_resumes():
    rig = Rig()
    await rig.log.append("a", [{"n": n} for n in range(3)])
    async with serving(rig.app) as port:
        async with request(port, "/api/a/notes?limit=2", headers=ANN) as answer:
            page = json.loads(await answer.body())
            tag = answer.headers["etag"]
        assert [item["n"] for item in page["notes"]] == [1, 2]
        async with request(
            port, "/api/a/notes?limit=2", headers={**ANN, "If-None-Match": tag}
        ) as a:
            assert (a.status, await a.body()) == (304, b"")
        async with request(port, "/api/a/notes/stream?limit=2", headers=ANN) as answer:
            snapshot = await answer.next()
            assert json.loads(snapshot.data) == page
            await rig.log.append("a", {"n": 3})
            last = (await answer.next()).last_event_id
        await rig.log.append("a", {"n": 4})
        resumed = {**ANN, "Last-Event-ID": last}
        async with request(port, "/api/a/notes/stream", headers=resumed) as answer:
            assert json.loads((await answer.next()).data) == {"n": 4}
        async with request(port, "/api/a/notes/stream", method="HEAD", headers=ANN) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")


async def test_errors_are_problems_and_a_guard_comes_first():
    rig = Rig()
    async with serving(rig.app) as port:
        for path, headers, status in (
            ("/api/a/notes?limit=0", {}, 401),
            ("/api/a/notes?limit=0", ANN, 422),
            ("/api/a/notes?after=x", ANN, 410),
            ("/api/a/notes/stream", {**ANN, "Accept": "application/json"}, 406),
            ("/api/ticks", {**ANN, "Accept": "application/json"}, 406),
        ):
            async with request(port, path, headers=headers) as answer:
                assert answer.status == status, path
                assert answer.headers["content-type"] == "application/problem+json"
                assert json.loads(await answer.body())["status"] == status
        async with request(port, "/api/dual", headers={"Accept": "application/json"}) as answer:
            assert json.loads(await answer.body()) == {"plain": True}
            assert answer.headers["vary"] == "Accept"
        accept = {"Accept": "text/event-stream"}
        async with request(port, "/api/dual", headers=accept) as answer:
            assert (await answer.next()).data == "streamed"


async def test_an_application_with_a_handler_of_its_own_decides():
    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"mine": error.status_code}, error.status_code)

    rig = Rig(handlers={HTTPException: refused})
    async with serving(rig.app) as port, request(port, "/api/a/notes") as answer:
        assert (answer.status, json.loads(await answer.body())) == (401, {"mine": 401})


@pytest.mark.parametrize("path", ["/api/a/notes/stream", "/api/ticks"])
async def test_a_stream_ends_when_its_guard_refuses(path):
    rig = Rig()
    async with serving(rig.app) as port, request(port, path, headers=ANN) as answer:
        await answer.next()
        await rig.live.recheck("user:ann")
        assert not answer.ended
        rig.denied["ann"] = 403
        await rig.live.recheck("user:ann")
        (last,) = await answer.rest()
        assert (last.event, json.loads(last.data)) == ("error", {"status": 403})


@pytest.mark.parametrize("kind", ["only", "dual", "manual"])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_a_function_that_returns_what_it_was_to_send(kind, accept):
    """The client would get an empty stream or a 406, and the value would be lost."""
    live = LiveRoutes()

    @live.stream("/ticks", sse=SSE(kind=kind))
    async def ticks(_: Request, stream: EventStream | None) -> dict[str, int]:
        return {"n": 1}

    app = Starlette(routes=live.routes, lifespan=live.lifespan)
    async with LiveClient(app) as client:
        asked = client.get("/ticks", headers={"Accept": accept})
        if (kind, accept) == ("only", "application/json"):
            assert (await asked).status_code == 406
        else:
            with pytest.raises(DeclarationError, match="/ticks: its function returned dict"):
                await asked


def test_what_cannot_work_is_refused_where_it_is_declared():
    live = LiveRoutes()
    with pytest.raises(DeclarationError, match="'/stream' is added"):
        live.feed("/a/stream")
    live.feed("/a")(lambda request: MemoryLog().topic("a"))
    with pytest.raises(DeclarationError, match="'/a' is declared twice"):
        live.feed("/a")
    with pytest.raises(DeclarationError, match="must be `async def`"):
        live.stream("/b")(lambda request, stream: None)


def test_it_needs_no_fastapi():
    code = "import sys; import headwater.web.starlette; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
