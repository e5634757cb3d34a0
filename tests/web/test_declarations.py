"""What cannot work is refused when it is declared, in one sentence that says what to write."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import contextmanager
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Form
from fastapi.routing import APIRoute
from pydantic import BaseModel

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.web.fastapi import SSE, EventStream, LiveRouter, Source, StreamLimits
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
    ("path", 7, "feed 7: a path such as '/logs' is needed"),
    ("item", None, "item=None: a pydantic model, a dataclass or a TypedDict of one item is needed"),
    (
        "item",
        [Item],
        "a pydantic model, a dataclass or a TypedDict of one item is needed; ",
    ),
    ("item", "Item", "item='Item': a pydantic model"),
    ("collection", 7, "collection=7 must be letters"),
    ("event", None, "event=None must be letters"),
    ("requires", b"x", "requires=b'x': a permission, a guard or a list of these is needed"),
    ("keyed", "yes", "keyed='yes': True or False is needed"),
    ("limit", True, "limit=True must be 1 to 100"),
    ("retry", "2000", "retry='2000': a whole number of at least 0 is needed, in milliseconds"),
    ("retry", -1, "retry=-1: a whole number"),
    ("name", 7, "name=7: a text is needed"),
    ("status_code", 201, "status_code= is no option of its routes; they take deprecated, descr"),
    ("methods", ["POST"], "methods= is no option of its routes"),
]


@pytest.mark.parametrize(("option", "value", "said"), FEED)
def test_options_of_a_feed(option, value, said):
    given = {"path": "/notes", "item": Item, option: value}
    with refused(said):
        LiveRouter().feed(given.pop("path"), **given)


SSES = [
    ("heartbeat", True, "seconds above 0 are needed, or None for no heartbeat"),
    ("heartbeat", float("inf"), "seconds above 0 are needed, or None for no heartbeat"),
    ("serializer", "json", "a function of an object that returns a str is needed"),
    ("max_pending", "1 MB", "a whole number of at least 1 is needed, in bytes"),
    ("max_pending", 1.5, "a whole number of at least 1 is needed, in bytes"),
    ("linger", -1, "0 or more seconds are needed"),
    ("linger", None, "0 or more seconds are needed"),
    ("farewell", "bye", "an Event(...) is needed"),
]


@pytest.mark.parametrize(("option", "value", "said"), SSES)
def test_options_of_a_stream(option, value, said):
    with refused(f"SSE({option}={value!r}): {said}"):
        SSE(**{option: value})


ROUTER = [
    ("requires", "notes.view", "a function that makes the guard of a permission is needed"),
    ("heartbeat", float("inf"), "seconds above 0 are needed, or None for no heartbeat"),
    ("write_timeout", None, "seconds above 0 are needed"),
    ("io_uring", "no", "True or False is needed"),
    ("log", "redis://", "an event log, such as open_log('redis://…'), is needed"),
    ("limits", None, "StreamLimits(...) is needed"),
    ("route_class", object, "a class of APIRoute is needed"),
    ("dependencies", [notes], "a list of Depends(...) or guard(...) is needed"),
]


@pytest.mark.parametrize(("option", "value", "said"), ROUTER)
def test_options_of_a_router(option, value, said):
    with refused("LiveRouter() (", "test_declarations.py, line ", f"{option}={value!r}: {said}"):
        LiveRouter(**{option: value})


@pytest.mark.parametrize("proxies", [7, None, b"10.0.0.1", [7]])
def test_proxies_are_addresses(proxies):
    with refused(f"StreamLimits(proxies={proxies!r}): addresses and networks are needed"):
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
        (nothing, "its handler is said to return None; a Source is needed, such as"),
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
    with refused("/ticks: dependencies=[", "a list of Depends(...) or guard(...) is needed"):
        LiveRouter().get("/ticks", sse=True, dependencies=[notes])(ticks)
    with refused("install('app'): a FastAPI application is needed"):
        LiveRouter().install("app")


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
