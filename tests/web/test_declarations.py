"""What cannot work is refused when it is declared, in one sentence that says what to write."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Form
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request

from headwater.errors import DeclarationError, UsageError
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import (
    SSE,
    EventStream,
    LiveRouter,
    Source,
    StreamLimits,
    guard,
    identify,
)
from headwater.web.starlette import LiveRoutes
from support.http import request
from support.server import serving


class Item(BaseModel):
    n: int


LOG = MemoryLog()


async def notes() -> Source:
    return LOG.topic("notes")


async def other_notes() -> Source:
    return LOG.topic("notes")


async def ticks(stream: EventStream) -> None:
    await stream.send("x")


@contextmanager
def refused(*parts: str):
    """The declaration inside is refused by a sentence with these parts."""
    with pytest.raises(DeclarationError) as raised:
        yield
    for part in parts:
        assert part in str(raised.value)


FEED = [
    ("path", 7, "feed 7: write a path such as '/logs'"),
    ("item", None, "item=None: write a pydantic model, a dataclass or a TypedDict of one item"),
    (
        "item",
        [Item],
        "write a pydantic model, a dataclass or a TypedDict of one item; ",
    ),
    ("item", "Item", "item='Item': write a pydantic model"),
    ("collection", 7, "collection=7 must be letters"),
    ("event", None, "event=None must be letters"),
    ("requires", b"x", "requires=b'x': write a permission, a guard or a list of these"),
    ("keyed", "yes", "keyed='yes': write True or False"),
    ("limit", True, "limit=True must be 1 to 100"),
    ("retry", "2000", "retry='2000': write a whole number of at least 0, in milliseconds"),
    ("retry", -1, "retry=-1: write a whole number"),
    ("name", 7, "name=7: write a text"),
    ("status_code", 201, "status_code= is no option of its routes; they take deprecated, descr"),
    ("methods", ["POST"], "methods= is no option of its routes"),
]


@pytest.mark.parametrize(("option", "value", "said"), FEED)
def test_options_of_a_feed(option, value, said):
    given = {"path": "/notes", "item": Item, option: value}
    with refused(said):
        LiveRouter().feed(given.pop("path"), **given)


SSES = [
    ("heartbeat", True, "write seconds above 0, or None for no heartbeat"),
    ("heartbeat", float("inf"), "write seconds above 0, or None for no heartbeat"),
    ("serializer", "json", "write a function that makes a str of an object"),
    ("max_pending", "1 MB", "write a whole number of at least 1, in bytes"),
    ("max_pending", 1.5, "write a whole number of at least 1, in bytes"),
    ("linger", -1, "write 0 or more seconds"),
    ("linger", None, "write 0 or more seconds"),
    ("farewell", "bye", "write an Event(...)"),
]


@pytest.mark.parametrize(("option", "value", "said"), SSES)
def test_options_of_a_stream(option, value, said):
    with refused(f"SSE({option}={value!r}): {said}"):
        SSE(**{option: value})


ROUTER = [
    ("requires", "notes.view", "write a function that makes the guard of a permission"),
    ("heartbeat", float("inf"), "write seconds above 0, or None for no heartbeat"),
    ("write_timeout", None, "write seconds above 0"),
    ("io_uring", "no", "write True or False"),
    ("log", "redis://", "write an event log, such as open_log('redis://…')"),
    ("limits", None, "write StreamLimits(...)"),
    ("route_class", object, "write a class of APIRoute"),
    ("dependencies", [notes], "write a list of Depends(...) or guard(...)"),
]


@pytest.mark.parametrize(("option", "value", "said"), ROUTER)
def test_options_of_a_router(option, value, said):
    with refused("LiveRouter() (", "test_declarations.py, line ", f"{option}={value!r}: {said}"):
        LiveRouter(**{option: value})


@pytest.mark.parametrize("proxies", [7, None, b"10.0.0.1", [7]])
def test_proxies_are_addresses(proxies):
    with refused(f"StreamLimits(proxies={proxies!r}): write addresses and networks"):
        StreamLimits(proxies=proxies)


def test_handlers_that_no_feed_can_have():
    async def generator() -> AsyncIterator[Item]:
        yield Item(n=1)

    async def items() -> list[Item]: ...

    async def nothing() -> None: ...

    async def body(item: Item) -> Source: ...

    async def form(name: Annotated[str, Form()]) -> Source: ...

    async def stream(stream: EventStream) -> Source: ...

    for call, said in (
        (generator, "its handler has a `yield`: return a Source"),
        (items, "its handler is said to return list["),
        (nothing, "its handler is said to return None; return a Source, such as"),
        (body, "its routes are GET and have no body: declare a model of its parameters as `Annot"),
        (form, "its routes are GET and have no body"),
        (stream, "EventStream is for the handler of a route with sse=, on a LiveRouter: write @li"),
    ):
        with refused(said):
            LiveRouter().feed("/notes", item=Item)(call)


def test_routes_that_take_a_stream_or_return_a_source_by_mistake():
    with refused("write @live.get(path, sse=True)"):
        LiveRouter().get("/ticks")(ticks)
    with refused("write @live.get(path, sse=True)"):
        FastAPI().get("/ticks")(ticks)
    with refused("a Source is what the handler of a feed returns: write @live.feed("):
        LiveRouter().get("/notes")(notes)
    with refused("/ticks: dependencies=[", "write a list of Depends(...) or guard(...)"):
        LiveRouter().get("/ticks", sse=True, dependencies=[notes])(ticks)
    with refused("/ticks: status_code=201: a stream is answered with 200; for another one"):
        LiveRouter().post("/ticks", sse=True, status_code=201)(ticks)
    with refused("install('app'): write a FastAPI application"):
        LiveRouter().install("app")
    with refused("guard(Depends(", "write a function, such as guard(check), without Depends("):
        guard(Depends(notes))


def test_routes_of_starlette():
    async def shown(request: Request) -> Source: ...

    async def streamed(request: Request, stream: EventStream) -> None: ...

    with refused("feed 7: write a path such as '/logs'"):
        LiveRoutes().feed(7)
    with refused("keyed='yes': write True or False"):
        LiveRoutes().feed("/notes", keyed="yes")
    with refused("/ticks: sse=True: write SSE(...)"):
        LiveRoutes().stream("/ticks", sse=True)
    for guards in (notes, ["notes.view"]):
        with refused("write a list of functions of the request"):
            LiveRoutes().feed("/notes", guards=guards)(shown)
        with refused("write a list of functions of the request"):
            LiveRoutes().stream("/ticks", guards=guards)(streamed)


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete"])
async def test_every_method_can_stream(method):
    app, live = FastAPI(), LiveRouter(route_class=APIRoute)
    getattr(live, method)("/ticks", sse=True)(ticks)
    app.include_router(live)
    async with serving(app) as port:
        async with request(port, "/ticks", method=method.upper()) as answer:
            assert (await answer.next()).data == "x"


async def started(app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        pass


async def test_a_feed_behind_another_routes_path():
    """FastAPI answers with the first route that matches, and says nothing of the others."""
    for first, second, path in (
        ("/notes", "/notes", "GET /api/notes "),
        ("/{team}/notes", "/{group}/notes", "GET /api/{group}/notes "),
        ("/{name}", "/notes", "GET /api/notes "),
        ("/notes/{part:path}", "/notes", "GET /api/notes/stream "),
    ):
        one, two = LiveRouter(prefix="/api"), LiveRouter()
        one.feed(first, item=Item)(notes)
        two.feed(second, item=Item)(other_notes)
        app, inner = FastAPI(), APIRouter()
        inner.include_router(two)
        app.include_router(one)
        app.include_router(inner, prefix="/api")
        with refused(path, "other_notes()) is never reached: FastAPI answers it with", ".notes()"):
            await started(app)


async def test_a_feed_whose_last_parameter_takes_slashes():
    app, live = FastAPI(), LiveRouter()

    @live.feed("/files/{name:path}", item=Item)
    async def files(name: str) -> Source:
        return LOG.topic(name)

    app.include_router(live)
    async with serving(app) as port:
        async with request(port, "/files/a/b/stream") as answer:
            assert (await answer.next()).event == "snapshot"
        async with request(port, "/files/a/b") as answer:
            assert b'"items":[]' in await answer.body()


async def test_a_feed_behind_a_route_of_the_application_is_named_in_the_log(caplog):
    """It may be meant, to answer one half in another way."""
    app, live = FastAPI(), LiveRouter()

    @app.get("/notes/{number}")
    async def note(number: int) -> int:
        return number

    @app.post("/notes/{number}")
    async def write(number: int) -> int:
        return number

    @app.get("/notes/{number:int}/{part}")
    async def part(number: int) -> int:
        return number

    live.feed("/notes", item=Item)(notes)
    app.include_router(live)
    await started(app)
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "test_declarations.notes()) is never reached: FastAPI answers" in record.getMessage()
    assert record.getMessage().startswith("GET /notes/stream (")
    assert record.getMessage().endswith("declare that after it, or give one of them another path")


@dataclass
class Endpoint:
    """An endpoint that is an object and cannot be in a set."""

    number: int

    def __call__(self) -> int:
        return self.number


async def test_endpoints_of_an_application_may_be_objects():
    app, live = FastAPI(), LiveRouter()
    live.feed("/notes", item=Item)(notes)
    live.get("/seven")(Endpoint(7))
    app.get("/also-seven")(Endpoint(7))
    app.include_router(live)
    await started(app)


async def test_a_router_that_is_included_before_its_routes():
    """FastAPI before 0.150 misses them; later it has them."""
    app, live = FastAPI(), LiveRouter(dependencies=[Depends(lambda: None)])
    live.feed("/notes", item=Item)(notes)
    app.include_router(live)
    live.feed("/others", item=Item)(other_notes)
    if any("/others" in path for path in app.openapi()["paths"]):
        await started(app)
        return
    with refused("the application misses", "other_notes(): FastAPI before 0.150 copies"):
        await started(app)


async def test_an_application_with_none_of_a_routers_routes_is_named_in_the_log(caplog):
    """As FastAPI before 0.150 is left with, if the router is included before all of its routes."""
    live = LiveRouter()
    live.feed("/notes", item=Item)(notes)
    async with live.lifespan_context(FastAPI()):
        pass
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert (
        "test_declarations.notes(): include the LiveRouter after its routes" in record.getMessage()
    )


async def test_a_router_that_is_used_in_a_thread():
    """FastAPI runs the handler of a `def` function in one."""
    app, live = FastAPI(), LiveRouter()
    app.include_router(live)
    said = []

    @app.get("/streams")
    def streams() -> int:
        with pytest.raises(UsageError) as raised:
            live.streams()
        said.append(str(raised.value))
        return live.stats.open

    async with serving(app) as port, request(port, "/streams") as answer:
        assert await answer.body() == b"0"
    assert "is used outside of its event loop: use it in an `async def` function" in said[0]


@pytest.mark.parametrize("kind", ["only", "dual"])
async def test_a_handler_that_returns_what_it_was_to_send(kind, capsys):
    """The client would get an empty stream, and the value would be lost."""
    app, live = FastAPI(), LiveRouter()

    @live.get("/ticks", sse=SSE(kind=kind))
    async def ticks(stream: EventStream | None) -> dict[str, int]:
        return {"n": 1}

    app.include_router(live)
    async with serving(app) as port:
        accept = {"Accept": "text/event-stream"}
        async with request(port, "/ticks", headers=accept) as answer:
            assert answer.status == 500
    shown = capsys.readouterr().err
    assert "/ticks: its handler returned dict and sent nothing: call `await stream.send" in shown


@pytest.mark.parametrize("subject", [7, None, b"user:7"])
async def test_a_subject_is_a_text(subject):
    """A number in one place and a text in another would leave a stream open."""
    live = LiveRouter()
    with pytest.raises(UsageError, match="is no text: write one such as 'user:7'"):
        identify(Request({"type": "http"}), subject)
    if subject is not None:
        with pytest.raises(UsageError, match="recheck: .* is no text"):
            await live.recheck(subject)
