"""The description of an application is whole: what it refers to is there, and each id is one's."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import fastapi
import pytest
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, create_model

from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs
from headwater.web.fastapi import SSE, EventStream, LiveRouter, Source
from support.application import Application


class Item(BaseModel):
    id: str


class Shared(BaseModel):
    """Of the application too. As input and as output it has another schema."""

    price: Decimal


def installed() -> tuple[FastAPI, LiveRouter]:
    live = LiveRouter()
    app = Application(live)
    live.install(app, problems="application", openapi="3.2")
    return app, live


def described(app):
    """The document; fails if it refers to what is not there."""
    document = app.openapi()
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        found = document
        for part in reference.split("/"):
            found = found[part]
    return document


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID")  # FastAPI gives one for each route
def test_routes_with_several_methods_and_webhooks_refer_to_what_is_there():
    app, _ = installed()

    @app.api_route("/y", methods=["PUT", "POST"])
    async def y(item: Item): ...

    described(app)

    @app.webhooks.post("hook")
    async def hook(item: Item): ...

    app.openapi_schema = None
    assert set(described(app)["webhooks"]) == {"hook"}


def test_a_model_of_the_application_of_the_name_of_ours_is_left_alone():
    app, _ = installed()
    model = create_model("InvalidRequest", mine=(int, ...))

    def y(item): ...

    y.__annotations__ = {"item": model}
    app.post("/y")(y)
    schemas = described(app)["components"]["schemas"]
    assert set(schemas["InvalidRequest"]["properties"]) == {"mine"}
    assert "detail" in schemas["HeadwaterInvalidRequest"]["properties"]


def test_feeds_with_an_id_of_their_own_or_with_one_event_name():
    app, live = installed()

    @live.feed("/f", item=Item, operation_id="things")
    async def f() -> Source: ...

    @live.feed("/g", item=Item)
    async def g() -> Source: ...

    document = described(app)
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids)) == 4
    assert {"things", "things_stream"} <= set(ids)


@pytest.mark.parametrize("kind", ["only", "dual", "manual"])
def test_what_a_streaming_route_refuses_is_described_as_it_is_answered(kind):
    app, live = FastAPI(), LiveRouter()

    @live.post("/chat", sse=SSE(kind=kind))
    async def chat(asked: Item, stream: EventStream | None) -> None: ...

    app.include_router(live)
    refused = app.openapi()["paths"]["/chat"]["post"]["responses"]["422"]
    assert list(refused["content"]) == ["application/problem+json"]


@pytest.mark.skipif(fastapi.__version__ == "0.115.0", reason="FastAPI 0.115.1 describes them")
@pytest.mark.parametrize("version", [None, "3.2"])
def test_errors_of_a_stream_that_the_application_describes_are_json(version):
    """Also those that it describes for a whole router or application, in any OpenAPI."""
    error = {"model": Item}
    live = LiveRouter(responses={402: error})
    app = Application(live, responses={418: error})
    live.install(app, openapi=version)

    @live.feed("/f", item=Item, responses={404: error, "default": error})
    async def f() -> Source: ...

    @live.get("/events", sse=True, responses={404: error, "default": error})
    async def events(stream: EventStream) -> None: ...

    @live.run("/runs", Runs(MemoryLog()), owner=lambda: "ann", responses={"default": error})
    async def run(run: Run) -> None: ...

    for path in ("/f", "/f/stream", "/events", "/runs/{run_id}/stream"):
        responses = described(app)["paths"][path]["get"]["responses"]
        for status in {"402", "418", "404", "default"} - ({"404"} if "run" in path else set()):
            schema = {"$ref": "#/components/schemas/Item"}
            assert responses[status]["content"] == {"application/json": {"schema": schema}}
        if path != "/f":
            assert list(responses["200"]["content"]) == ["text/event-stream"]


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID")  # FastAPI gives one for each route
def test_every_method_of_a_streaming_route_is_described_as_one():
    app, live = installed()

    @live.api_route("/m", sse=True, methods=["GET", "POST"])
    async def m(stream: EventStream): ...

    operations = described(app)["paths"]["/m"]
    assert set(operations) == {"get", "post"}
    for operation in operations.values():
        assert list(operation["responses"]["200"]["content"]) == ["text/event-stream"]


def test_a_router_that_is_included_twice():
    app, live = installed()

    @live.feed("/f", item=Item)
    async def f() -> Source: ...

    app.include_router(live, prefix="/again")
    document = described(app)
    ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids)) == 4


NAMES = (
    *("Order", "OrderPage", "OrderEvent", "OrderEvents", "OrderItem", "OrderSnapshotEvent"),
    *(
        "ErrorData",
        "KeyData",
        "ResetData",
        "EndData",
        "Error",
        "Reset",
        "Run",
        "RunItem",
        "RunEvents",
    ),
)


def test_no_model_of_the_application_gets_another_name():
    """FastAPI renames two models of one name, so clients generated for the application break."""

    def application() -> FastAPI:
        app = FastAPI()
        for name in NAMES:
            app.get(f"/{name}", response_model=create_model(name, mine=(int, ...)))(lambda: None)
        app.get("/shared", response_model=Shared)(lambda: None)
        return app

    app, live = application(), LiveRouter()

    @live.feed("/orders", item=Item, collection="orders", event="order", keyed=True)
    async def orders() -> Source: ...

    @live.feed("/order", item=Item, event="order", envelope={"data": ...})
    async def others() -> Source: ...

    @live.feed("/shared/live", item=Shared)
    async def shared() -> Source: ...

    @live.run("/runs", Runs(MemoryLog()), owner=lambda: "ann")
    async def run(run: Run) -> None: ...

    app.include_router(live)
    before, after = application().openapi(), described(app)
    assert {path: after["paths"][path] for path in before["paths"]} == before["paths"]
    assert before["components"]["schemas"].items() <= after["components"]["schemas"].items()
    assert not [name for name in after["components"]["schemas"] if "__" in name]


def test_a_page_is_described_as_json_whatever_the_default_response_is():
    app, live = FastAPI(default_response_class=HTMLResponse), LiveRouter()

    @live.feed("/f", item=Item)
    async def f() -> Source: ...

    app.include_router(live)
    (media_type,) = described(app)["paths"]["/f"]["get"]["responses"]["200"]["content"]
    assert media_type == "application/json"


def test_install_changes_a_document_that_was_made_before():
    app, live = FastAPI(), LiveRouter()
    assert app.openapi()["openapi"].startswith("3.1")
    live.install(app, openapi="3.2")
    assert app.openapi()["openapi"] == "3.2.0"


def test_what_the_application_says_of_runs_is_said_of_all_their_routes():
    app, live = FastAPI(), LiveRouter()
    key = {"name": "X-Key", "in": "header", "schema": {"type": "string"}}
    extra = {"parameters": [key], "x-internal": True}

    @live.run(
        "/works",
        Runs(MemoryLog()),
        owner=lambda: "ann",
        operation_id="work",
        openapi_extra=extra,
        responses={418: {"description": "A teapot"}},
    )
    async def works(run: Run) -> None: ...

    app.include_router(live)
    operations = [each for path in described(app)["paths"].values() for each in path.values()]
    ids = ["work", "work_list", "work_list_stream"]
    ids += [f"work_{name}" for name in ("state", "stream", "cancel", "delete")]
    assert sorted(each["operationId"] for each in operations) == sorted(ids)
    for each in operations:
        assert each["responses"]["418"]["description"] == "A teapot"
        assert each["x-internal"] is True
        assert key in each["parameters"]
        for status in ("401", "422"):
            assert list(each["responses"][status]["content"]) == ["application/problem+json"]


def test_install_says_the_version_of_a_document_that_the_application_makes():
    """By `get_openapi`, as FastAPI documents it, which takes the version as an argument."""
    app, live = FastAPI(), LiveRouter()
    app.openapi = lambda: get_openapi(title="Mine", version="1", routes=app.routes)
    live.install(app, openapi="3.2")
    assert app.openapi()["openapi"] == "3.2.0"


def test_a_parameter_of_the_path_of_runs_is_described_on_all_their_routes():
    """A template whose parameter is not described is no valid document."""
    live = LiveRouter(prefix="/orgs/{org}")

    @live.run("/works", Runs(MemoryLog()), owner=lambda: "ann")
    async def works(run: Run, org: int) -> None: ...

    app = FastAPI()
    app.include_router(live)
    found = {
        (path, method): [
            each["schema"]["type"] for each in operation["parameters"] if each["name"] == "org"
        ]
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    assert len(found) == 7
    assert set(map(tuple, found.values())) == {("integer",)}
