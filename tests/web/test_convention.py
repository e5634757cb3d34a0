"""The pair convention, on applications that keep it and on one for each way to break it."""

from __future__ import annotations

from functools import partial

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from headwater.eventlog import MemoryLog
from headwater.web.convention import breaches, pairs
from headwater.web.fastapi import EventStream, LiveRouter, Source, guard
from headwater.web.starlette import LiveRoutes


class Item(BaseModel):
    id: str


def requires(permission: str):
    def check() -> None: ...

    return guard(check, permission)


def app_with(declare, prefix="/api") -> FastAPI:
    app = FastAPI()
    live = LiveRouter(requires=requires)
    declare(live)
    app.include_router(live, prefix=prefix)
    return app


def test_a_feed_keeps_it_by_construction():
    def declare(live):
        @live.feed("/teams/{team}/logs", item=Item, requires="logs.view")
        async def logs(team: str, level: str | None = None) -> Source:
            return MemoryLog().topic(team)

    app = app_with(declare)
    assert breaches(app) == []
    assert [(p.rest, p.stream) for p in pairs(app)] == [
        ("/api/teams/{team}/logs", "/api/teams/{team}/logs/stream")
    ]


def test_a_pair_written_by_hand_may_keep_it():
    def declare(live):
        @live.get("/logs", dependencies=[requires("logs.view")])
        async def rest(level: str | None = None, limit: int = 20): ...

        @live.get("/logs/stream", sse=True, dependencies=[requires("logs.view")])
        async def stream(stream: EventStream, level: str | None = None, limit: int = 20): ...

    assert breaches(app_with(declare)) == []


def test_a_stream_without_twin():
    def declare(live):
        @live.get("/logs/stream", sse=True)
        async def stream(stream: EventStream): ...

    (line,) = breaches(app_with(declare))
    assert line == "/api/logs/stream: no REST twin at GET /api/logs"


def test_other_parameters_on_one_half():
    def declare(live):
        @live.get("/logs")
        async def rest(level: str | None = None, source: str = ""): ...

        @live.get("/logs/stream", sse=True)
        async def stream(stream: EventStream, level: int | None = None, extra: str = ""): ...

    lines = breaches(app_with(declare))
    assert len(lines) == 3
    assert lines[0] == "/api/logs/stream: parameter 'extra' is not on GET /api/logs"
    assert lines[1].startswith("/api/logs/stream: parameter 'level' is ")
    assert lines[2] == "/api/logs/stream: parameter 'source' is on GET /api/logs only"


def test_another_permission_on_one_half():
    def declare(live):
        @live.get("/logs", dependencies=[requires("logs.view")])
        async def rest(): ...

        @live.get("/logs/stream", sse=True, dependencies=[requires("metrics.view")])
        async def stream(stream: EventStream): ...

    (line,) = breaches(app_with(declare))
    assert line == "/api/logs/stream: it asks for metrics.view, GET /api/logs for logs.view"


def test_a_permission_on_one_half_only():
    def declare(live):
        @live.get("/logs", dependencies=[requires("logs.view")])
        async def rest(): ...

        @live.get("/logs/stream", sse=True)
        async def stream(stream: EventStream): ...

    (line,) = breaches(app_with(declare))
    assert line == "/api/logs/stream: it asks for nothing, GET /api/logs for logs.view"


class Slotted:
    """Such as a dataclass with slots."""

    __slots__ = ("permission",)

    def __init__(self, permission: str) -> None:
        self.permission = permission

    def __call__(self) -> None: ...


def named(permission: str) -> None: ...


def one_of(permissions: list[str]):
    def check() -> bool:
        return bool(permissions)

    return check


@pytest.mark.parametrize(
    "make",
    [Slotted, partial(partial, named), lambda said: one_of([said])],
    ids=["slots", "partial", "closure"],
)
@pytest.mark.parametrize("wrap", [guard, Depends])
def test_dependencies_are_compared_by_what_they_are_made_of(make, wrap):
    def lines(stream_permission):
        def declare(live):
            @live.get("/logs", dependencies=[wrap(make("logs.view"))])
            async def rest(): ...

            @live.get("/logs/stream", sse=True, dependencies=[wrap(make(stream_permission))])
            async def stream(stream: EventStream): ...

        return breaches(app_with(declare))

    assert lines("logs.view") == []
    (line,) = lines("metrics.view")
    assert "metrics.view" in line.partition(", GET ")[0]
    assert "logs.view" in line.partition(", GET ")[2]


def test_a_wrong_path():
    def declare(live):
        @live.get("/live-logs", sse=True)
        async def stream(stream: EventStream): ...

    (line,) = breaches(app_with(declare))
    assert line.startswith("/api/live-logs: a stream's path is /api/{resource}/{action}/stream")

    def feed(live):
        @live.feed("/logs", item=Item)
        async def logs() -> Source: ...

    (line,) = breaches(app_with(feed, prefix="/v1"))
    assert line.startswith("/v1/logs/stream: a stream's path is")


def starlette_routes(path: str, *guards) -> list[Route]:
    live = LiveRoutes()

    @live.feed(path, guards=guards)
    async def items(request) -> Source:
        return MemoryLog().topic("t")

    return live.routes


@pytest.mark.parametrize("outer", [FastAPI, Starlette])
def test_what_is_mounted_is_part_of_the_application(outer):
    """Its streams have the same clients as those of the application around it."""

    def declare(live):
        @live.feed("/logs", item=Item)
        async def logs() -> Source:
            return MemoryLog().topic("t")

    def may_pass(request): ...

    inner = Starlette(routes=[Mount("/shop", routes=starlette_routes("/orders", may_pass))])
    app = outer(routes=[Mount("/api", inner), Mount("/team", app_with(declare))])
    assert breaches(app) == [
        "/team/api/logs/stream: a stream's path is /api/{resource}/{action}/stream"
    ]
    assert {p.stream for p in pairs(app)} == {"/api/shop/orders/stream", "/team/api/logs/stream"}


def test_halves_of_starlette_with_other_guards():
    def may_pass(request): ...

    rest, _ = starlette_routes("/orders")
    _, stream = starlette_routes("/orders", may_pass)
    app = Starlette(routes=[Mount("/api", routes=[rest, stream])])
    (line,) = breaches(app)
    assert line.startswith("/api/orders/stream: it asks for ")
    assert line.endswith("may_pass, GET /api/orders for nothing")
