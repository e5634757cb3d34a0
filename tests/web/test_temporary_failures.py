"""A temporary failure never ends a browser's client: any status but 200 would, for good."""

from __future__ import annotations

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse

from headwater.errors import SourceUnavailableError
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import SSE, EventStream, LiveRouter, Problem, Source
from headwater.web.starlette import LiveRoutes

STREAM = {"Accept": "text/event-stream"}


class AwayError(Exception):
    """An application's own error, which its handler answers with 503."""


FAULTS = {
    "unavailable": SourceUnavailableError("table users", "its server at db1 is away"),
    "busy": HTTPException(503, "Too many are signing in.", headers={"Retry-After": "7"}),
    "limited": Problem(429, "Slow down.\nPlease.", headers={"Retry-After": "30"}),
    "dated": HTTPException(503, headers={"Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}),
    "own": AwayError(),
    "structured": HTTPException(503, {"why": "down"}),
    "surrogate": HTTPException(503, "half \ud800"),
}
LASTING = {status: HTTPException(status, "No.") for status in (401, 403, 404, 422, 500, 410)}


def fault(request: Request) -> None:
    name = request.query_params["fault"]
    raise FAULTS[name] if name in FAULTS else LASTING[int(name)]


def application():
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()

    @app.exception_handler(AwayError)
    def away(_: Request, __: AwayError):
        return PlainTextResponse("away", 503, headers={"Retry-After": "9"})

    @live.feed("/guarded", item=dict, requires=Depends(fault))
    async def guarded() -> Source:
        return log.topic("a")

    @live.feed("/depends", item=dict)
    async def depends(_: None = Depends(fault)) -> Source:
        return log.topic("a")

    @live.feed("/body", item=dict)
    async def body(request: Request) -> Source:
        fault(request)

    @live.get("/events", sse=True)
    async def events(request: Request, stream: EventStream):
        fault(request)

    @live.get("/dual", sse=SSE(kind="dual"), dependencies=[Depends(fault)])
    async def dual(stream: EventStream | None):
        return {}

    app.include_router(live)
    return app


def client(app):
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


STREAMS = ["/guarded/stream", "/depends/stream", "/body/stream", "/events", "/dual"]


@pytest.mark.parametrize("path", STREAMS)
async def test_what_is_temporary_answers_a_stream_with_the_time_to_come_back(path):
    async with client(application()) as http:
        seconds = {"busy": 7, "limited": 30, "own": 9}
        for name in FAULTS:
            answer = await http.get(f"{path}?fault={name}", headers=STREAM)
            after = seconds.get(name, 2)
            assert answer.status_code == 200, name
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["retry-after"] == str(after)
            retry, comment, *rest = answer.text.split("\n")
            assert (retry, rest) == (f"retry: {1000 * after}", ["", ""])
            assert comment.startswith(": ")
        said = (await http.get(f"{path}?fault=unavailable", headers=STREAM)).text
        assert "db1" not in said
        assert "table users cannot be read just now" in said
        limited = await http.get(f"{path}?fault=limited", headers=STREAM)
        assert ": Slow down. Please.\n" in limited.text


@pytest.mark.parametrize("path", STREAMS)
async def test_what_lasts_keeps_its_status(path):
    async with client(application()) as http:
        for status in LASTING:
            answer = await http.get(f"{path}?fault={status}", headers=STREAM)
            assert answer.status_code == status


@pytest.mark.parametrize("path", ["/guarded", "/depends", "/body", "/dual"])
async def test_rest_says_503_and_429(path):
    async with client(application()) as http:
        for name in FAULTS:
            wanted = 429 if name == "limited" else 503
            answer = await http.get(f"{path}?fault={name}", headers={"Accept": "application/json"})
            assert answer.status_code == wanted, name


async def test_the_head_of_such_a_stream_has_no_body():
    async with client(application()) as http:
        answer = await http.head("/guarded/stream?fault=busy", headers=STREAM)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["retry-after"] == "7"


async def test_the_same_without_fastapi():
    log, live = MemoryLog(), LiveRoutes()

    async def guard(request):
        fault(request)

    async def away(_, __):
        return JSONResponse({}, 503)

    @live.feed("/items", item=dict, guards=[guard])
    async def items(request):
        return log.topic("a")

    app = Starlette(routes=live.routes, exception_handlers={AwayError: away})
    async with client(app) as http:
        for name in FAULTS:
            answer = await http.get(f"/items/stream?fault={name}", headers=STREAM)
            assert (answer.status_code, answer.text[:7]) == (200, "retry: ")
            assert (await http.get(f"/items?fault={name}")).status_code in (429, 503)
        assert (await http.get("/items/stream?fault=403", headers=STREAM)).status_code == 403
