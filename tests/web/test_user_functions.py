"""Functions in every form that their authors write: decorated, partial, methods, objects."""

from __future__ import annotations

import functools
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from typing_extensions import TypeAliasType

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.testing import LiveClient
from headwater.web.fastapi import EventStream, GuardedRoute, LiveRouter, Source, guard
from headwater.web.starlette import LiveRoutes
from support.http import request
from support.server import serving


class Item(BaseModel):
    n: int


def plainly(call):
    """A decorator as people write it: a plain function around whatever it is given."""

    @functools.wraps(call)
    def wrapper(*args, **values):
        return call(*args, **values)

    return wrapper


async def status_of(port: int, path: str, **options) -> int:
    async with request(port, path, **options) as answer:
        return answer.status


async def refuse(request: Request) -> None:
    raise HTTPException(403, "not you")


class Refusing:
    async def __call__(self, request: Request) -> None:
        raise HTTPException(403, "not you")


# `inspect.iscoroutinefunction` takes each for a plain function, but for the partial and the method.
FORMS = {
    "object": Refusing(),
    "decorated": plainly(refuse),
    "decorated-twice": plainly(plainly(refuse)),
    "partial": functools.partial(refuse),
    "partial-of-decorated": functools.partial(plainly(refuse)),
    "lambda": lambda request: refuse(request),
    "method": Refusing().__call__,
}


async def test_a_guard_of_starlette_refuses_in_every_form():
    live, log = LiveRoutes(), MemoryLog()

    def notes(_: Request) -> Source:
        return log.topic("notes")

    async def ticks(_: Request, stream: EventStream) -> None:
        await stream.send("secret")

    for form, refusing in FORMS.items():
        live.feed(f"/{form}/notes", item=Item, guards=[refusing])(notes)
        live.stream(f"/{form}/ticks", guards=[refusing])(ticks)
    app = Starlette(routes=live.routes, lifespan=live.lifespan)
    async with serving(app) as port:
        for form in FORMS:
            for path in ("notes", "notes/stream", "ticks"):
                assert (form, path, await status_of(port, f"/{form}/{path}")) == (form, path, 403)


async def test_a_guard_of_starlette_that_returns_a_response_lets_nobody_pass(capfd):
    live, log = LiveRoutes(), MemoryLog()

    def answers(_: Request) -> Response:
        return JSONResponse({"who": "are you?"}, 401)

    def yields(_: Request):
        yield

    for path, wrong in (("/a", answers), ("/b", yields)):

        @live.feed(path, item=Item, guards=[wrong])
        def notes(_: Request) -> Source:
            return log.topic("notes")

    app = Starlette(routes=live.routes, lifespan=live.lifespan)
    async with serving(app) as port:
        assert await status_of(port, "/a") == 500
        assert await status_of(port, "/b") == 500
    logged = capfd.readouterr().err
    assert "answers' returned a response, which would not be sent: raise" in logged
    assert "yields' returned a generator that nothing runs" in logged


def asks(request: Request):
    """As the lambda, with the annotation that makes it a dependency."""
    return refuse(request)


async def test_a_guard_of_fastapi_refuses_in_every_form():
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()
    own = APIRouter(route_class=GuardedRoute)

    def notes() -> Source:
        return log.topic("notes")

    async def ticks(stream: EventStream) -> None:
        await stream.send("secret")

    async def posted(body: Item) -> dict[str, str]:
        return {}

    for form, refusing in (FORMS | {"lambda": asks}).items():
        live.feed(f"/{form}/notes", item=Item, requires=guard(refusing))(notes)
        live.get(f"/{form}/ticks", sse=True, dependencies=[guard(refusing)])(ticks)
        own.post(f"/{form}/posted", dependencies=[guard(refusing)])(posted)
    app.include_router(live)
    app.include_router(own)
    async with serving(app) as port:
        for form in FORMS:
            for path in ("notes", "notes/stream", "ticks"):
                assert (form, path, await status_of(port, f"/{form}/{path}")) == (form, path, 403)
            assert (form, await status_of(port, f"/{form}/posted", method="POST")) == (form, 403)


async def test_handlers_may_be_decorated_partial_or_objects():
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()
    await log.append("notes", {"n": 7})

    async def notes(topic: str = "other"):
        return log.topic(topic)

    async def ticks(stream: EventStream, word: str = "no") -> None:
        await stream.send(word)

    class Notes:
        async def __call__(self, topic: str = "notes"):
            return log.topic(topic)

    class Ticks:
        async def __call__(self, stream: EventStream, word: str = "yes") -> None:
            await stream.send(word)

    feeds = [
        plainly(functools.partial(notes, topic="notes")),
        functools.partial(plainly(notes), topic="notes"),
        Notes(),
        plainly(Notes().__call__),
    ]
    streams = [functools.partial(ticks, word="yes"), Ticks(), plainly(Ticks().__call__)]
    for number, each in enumerate(feeds):
        live.feed(f"/feed{number}", item=Item)(each)
    for number, each in enumerate(streams):
        live.get(f"/ticks{number}", sse=True)(each)
    app.include_router(live)
    async with serving(app) as port:
        for number in range(len(feeds)):
            async with request(port, f"/feed{number}") as answer:
                assert b'[{"n":7}]' in await answer.body()
        for number in range(len(streams)):
            async with request(port, f"/ticks{number}") as answer:
                assert (await answer.next()).data == "yes"


class Closed(BaseModel, extra="forbid"):
    level: int = 0


class Paged(BaseModel):
    size: Annotated[int, Field(alias="limit")] = 3


def page(limit: int = 10) -> int:
    return limit


class Window:
    def __init__(self, before: str = "") -> None: ...


def user(size: Annotated[int, Depends(page)]) -> int:
    return size


def test_parameters_that_keep_paging_from_the_query_are_refused_when_declared():
    live, log = LiveRouter(), MemoryLog()

    def closed(asked: Annotated[Closed, Query()]) -> Source:
        return log.topic("notes")

    def model(asked: Annotated[Paged, Query()]) -> Source:
        return log.topic("notes")

    def alias(size: Annotated[int, Query(alias="limit")] = 3) -> Source:
        return log.topic("notes")

    def default(size: int = Query(3, alias="after")) -> Source:
        return log.topic("notes")

    def validated(size: Annotated[int, Query(validation_alias="before")] = 3) -> Source:
        return log.topic("notes")

    def positional(level: int, /) -> Source:
        return log.topic("notes")

    def dependency(who: Annotated[int, Depends(user)]) -> Source:
        return log.topic("notes")

    def instance(window: Annotated[Window, Depends()]) -> Source:
        return log.topic("notes")

    for call, sentence in (
        (
            closed,
            "Closed, the model of the parameter 'asked' of its handler, forbids further",
        ),
        (model, "its handler may not have Paged with a field 'limit'"),
        (alias, "may not have a parameter 'limit'"),
        (default, "may not have a parameter 'after'"),
        (validated, "may not have a parameter 'before'"),
        (positional, "'level' is positional only"),
        (dependency, r"its dependency page\(\) may not have a parameter 'limit'"),
        (instance, r"its dependency Window\(\) may not have a parameter 'before'"),
    ):
        with pytest.raises(DeclarationError, match=sentence):
            live.feed(f"/{call.__name__}", item=Item)(call)

    def notes() -> Source:
        return log.topic("notes")

    with pytest.raises(DeclarationError, match="its dependency page"):
        live.feed("/notes", item=Item, dependencies=[Depends(page)])(notes)
    with pytest.raises(DeclarationError, match="its dependency page"):
        LiveRouter(dependencies=[Depends(page)]).feed("/notes", item=Item)(notes)

    def elsewhere(
        limit: Annotated[str, Header()], after: str, wait: Annotated[int, Query(alias="pause")]
    ) -> Source:
        return log.topic("notes")

    live.feed("/notes/{after}", item=Item)(elsewhere)


async def test_a_plain_function_may_name_its_parameters_as_it_likes():
    """FastAPI runs it in a thread by a function with a parameter ``func``."""
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()

    @live.feed("/sums", item=Item)
    def sums(func: str) -> Source:
        return log.topic(func)

    app.include_router(live)
    async with LiveClient(app) as client:
        assert (await client.get("/sums?func=avg")).status_code == 200


class Timed(APIRoute):
    """As FastAPI's documentation has it: it sets a header on what the endpoint came to."""

    def get_route_handler(self):
        handler = super().get_route_handler()

        async def timed(request: Request) -> Response:
            response = await handler(request)
            response.headers["x-response-time"] = "0.1"
            response.headers["x-who"] = "the route"
            response.set_cookie("route", "1")
            return response

        return timed


async def test_a_page_has_the_status_of_a_dependency_and_the_headers_of_a_route_class():
    app, live, log = FastAPI(), LiveRouter(route_class=Timed), MemoryLog()

    def sets(response: Response) -> None:
        response.status_code = 203
        response.headers["x-who"] = "the dependency"
        response.set_cookie("dependency", "1")

    @live.feed("/notes", item=Item, dependencies=[Depends(sets)])
    def notes() -> Source:
        return log.topic("notes")

    app.include_router(live)
    async with serving(app) as port:
        # A browser's EventSource takes nothing but 200.
        for path, status in (("/notes", 203), ("/notes/stream", 200)):
            async with request(port, path) as answer:
                assert answer.status == status
                assert answer.headers["x-response-time"] == "0.1"
                found = [value for name, value in answer.header_list if name == "x-who"]
                assert found == ["the route"]
                cookies = [value for name, value in answer.header_list if name == "set-cookie"]
                assert [each.partition("=")[0] for each in cookies] == ["dependency", "route"]


class Enveloped(APIRoute):
    """It answers refusals in its own way."""

    def get_route_handler(self):
        handler = super().get_route_handler()

        async def enveloped(request: Request) -> Response:
            try:
                return await handler(request)
            except HTTPException as error:
                return JSONResponse({"error": error.status_code}, 200)
            except RequestValidationError as error:
                return JSONResponse({"invalid": len(error.errors())}, 200)

        return enveloped


@pytest.mark.parametrize("path", ["/notes", "/notes/stream", "/ticks", "/answers"])
async def test_a_route_class_sees_what_guards_raise_also_before_a_body_is_read(path):
    app, live = FastAPI(), LiveRouter(route_class=Enveloped)

    def refuse() -> None:
        raise HTTPException(401)

    @live.feed("/notes", item=Item, requires=guard(refuse))
    async def notes() -> Source: ...

    @live.get("/ticks", sse=True, dependencies=[guard(refuse)])
    async def ticks(stream: EventStream) -> None: ...

    @live.post("/answers", sse=True, dependencies=[guard(refuse)])
    async def answers(item: Item, stream: EventStream) -> None: ...

    app.include_router(live)
    method = "POST" if path == "/answers" else "GET"
    async with serving(app) as port:
        sent = {"Content-Type": "application/json"}
        async with request(port, path, method=method, headers=sent, body=b"{}") as answer:
            assert await answer.body() == b'{"error":401}'


@pytest.mark.parametrize("half", ["", "/stream"])
async def test_a_route_class_sees_all_that_is_wrong_with_a_request(half):
    app, live, log = FastAPI(), LiveRouter(route_class=Enveloped), MemoryLog()

    @live.feed("/notes", item=Item)
    async def notes(level: int = 0) -> Source:
        return log.topic("notes")

    app.include_router(live)
    async with serving(app) as port:
        for query, errors in (("limit=0", 1), ("level=x", 1), ("level=x&limit=0", 2)):
            async with request(port, f"/notes{half}?{query}") as answer:
                assert await answer.body() == b'{"invalid":%d}' % errors


TheRequest = Annotated[Request, "as FastAPI gives it"]
TheResponse = Annotated[Response, "what dependencies write to"]
# What `type TheStream = EventStream` makes in Python 3.12.
TheStream = TypeAliasType("TheStream", EventStream)


def seen(request: TheRequest, response: TheResponse) -> None:
    response.headers["x-seen"] = request.url.path


@pytest.mark.parametrize("path", ["/notes", "/ticks"])
async def test_a_request_and_a_response_with_notes_are_given(path):
    """FastAPI fills in only one parameter of a kind, so a second one would take it away."""
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()

    @live.feed("/notes", item=Item, requires=guard(seen))
    async def notes(request: TheRequest, response: TheResponse) -> Source:
        response.headers["x-path"] = request.url.path
        return log.topic("notes")

    @live.get("/ticks", sse=True, dependencies=[guard(seen)])
    async def ticks(stream: TheStream, request: TheRequest, response: TheResponse) -> None:
        response.headers["x-path"] = request.url.path
        await stream.send("x")

    app.include_router(live)
    async with serving(app) as port:
        async with request(port, path) as answer:
            assert (answer.status, answer.headers.get("x-path")) == (200, path)
            assert answer.headers["x-seen"] == path
