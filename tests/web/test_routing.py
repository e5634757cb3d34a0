"""A request comes to the route that FastAPI would have chosen, only sooner."""

from __future__ import annotations

import json
from itertools import product

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import _IncludedRouter

from headwater.web import fastapi as plugin
from headwater.web.fastapi import LiveRouter
from support.http import request
from support.server import serving

DECLARED = (
    *("/teams", "/teams/mine", "/teams/{team}", "/teams/{team}/notes", "/{any}/teams/notes"),
    *("/files/{path:path}", "/{one}/{two}", "/numbers/{n:int}", "/numbers/x{n}", "/late"),
)
PARTS = ("teams", "mine", "notes", "files", "numbers", "7", "x7", "late", "other", "")


def application(*, quick: bool, monkeypatch) -> FastAPI:
    if not quick:
        monkeypatch.setattr(plugin, "find_quickly", lambda _: None)
    live = LiveRouter()
    inner = APIRouter(prefix="/inner")

    def answer(path: str, method: str):
        async def which(request: Request) -> list[object]:
            return [path, method, request.path_params]

        return which

    def declare(router: APIRouter, *paths: str) -> None:
        for path in paths:
            for method in ("GET", "PUT"):
                router.add_api_route(path, answer(path, method), methods=[method])

    app = FastAPI(redirect_slashes=False)
    declare(live, *DECLARED[:-1])
    declare(inner, "/teams", "/{path:path}")
    live.include_router(inner)
    live.install(app, prefix="/api")
    monkeypatch.undo()

    @app.get("/api/late", name="outside")
    async def outside() -> str:
        return "outside"

    return app


async def answers(app: FastAPI) -> list[object]:
    paths = ["/api", "/api/", "/other", "/api/inner/teams", "/api/inner/a/b"]
    for count in (1, 2, 3):
        paths += ["/api/" + "/".join(parts) for parts in product(PARTS, repeat=count)][:300]
    found = []
    async with serving(app) as port:
        for path in paths:
            for method in ("GET", "POST"):
                async with request(port, path, method=method) as answer:
                    body = await answer.body()
                    found.append((path, answer.status, answer.headers.get("allow"), body))
    return found


async def test_routes_are_those_of_the_framework(monkeypatch):
    quick = await answers(application(quick=True, monkeypatch=monkeypatch))
    plain = await answers(application(quick=False, monkeypatch=monkeypatch))
    assert quick == plain
    assert {status for _, status, *_ in quick} >= {200, 404, 405}


async def test_a_route_that_is_declared_later_is_found(monkeypatch):
    """Routes may be declared before or after the router is installed, also while it serves."""
    app = application(quick=True, monkeypatch=monkeypatch)
    (live,) = [
        route.original_router for route in app.router.routes if hasattr(route, "original_router")
    ]
    async with serving(app) as port:
        async with request(port, "/api/teams/mine/late") as answer:
            assert answer.status == 404

        @live.get("/teams/mine/late")
        async def late() -> str:
            return "late"

        async with request(port, "/api/teams/mine/late") as answer:
            assert json.loads(await answer.body()) == "late"


@pytest.mark.parametrize("path", ["/api/teams/mine", "/api/teams/7/notes"])
async def test_few_routes_are_tried(monkeypatch, path):
    """With a hundred routes a request costs what it costs with two."""
    app = application(quick=True, monkeypatch=monkeypatch)
    (included,) = [r for r in app.router.routes if hasattr(r, "original_router")]
    async with serving(app) as port, request(port, path) as answer:
        assert answer.status == 200
    assert len(included._known().fitting(path)) < len(included.effective_candidates()) / 2


async def test_routes_are_ready_before_the_first_request(monkeypatch):
    """The first client after a start would else wait for all of them to be made."""
    app = application(quick=True, monkeypatch=monkeypatch)
    made = []
    make = _IncludedRouter._build_effective_context

    def counted(self, route):
        made.append(route)
        return make(self, route)

    monkeypatch.setattr(_IncludedRouter, "_build_effective_context", counted)
    async with serving(app) as port:
        assert made
        made.clear()
        for path in ("/api/teams", "/api/inner/teams"):
            async with request(port, path) as answer:
                assert answer.status == 200
        assert not made
