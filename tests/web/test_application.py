"""LiveRouters in an application that exists: it stays what it was, and gains paths."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.routing import Mount

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog, Topic
from headwater.testing import LiveClient
from headwater.web.fastapi import (
    SSE,
    EventStream,
    LiveRouter,
    Problem,
    Run,
    Runs,
    Source,
    guard,
    identify,
)
from support.http import request
from support.server import serving
from support.until import until


class Item(BaseModel):
    n: int


class Note(BaseModel):
    text: str = ""


class Order(BaseModel):
    city: str


def existing() -> FastAPI:
    """An application as people have it: own handlers, own errors, OpenAPI 3.1."""
    app = FastAPI(title="Shop")

    class Refused(Exception):
        pass

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"oops": str(error)}, 418)

    @app.exception_handler(404)
    async def missing(_: Request, __: Exception) -> Response:
        return JSONResponse({"where": "nowhere"}, 404)

    @app.get("/teapot")
    async def teapot() -> None:
        raise Refused("no coffee")

    @app.get("/detail")
    async def detail() -> None:
        raise HTTPException(409, {"code": 7, "why": ["a", "b"]})

    @app.get("/orders/{number}")
    async def order(number: int) -> dict[str, int]:
        return {"number": number}

    @app.post("/orders")
    async def create(order: Order) -> Order:
        return order

    @app.get("/fault")
    async def fault() -> None:
        raise RuntimeError("a bug")

    return app


ASKED = [
    ("GET", "/teapot", b""),
    ("GET", "/detail", b""),
    ("GET", "/orders/7", b""),
    ("GET", "/orders/x", b""),
    ("POST", "/orders", b'{"city": 7}'),
    ("POST", "/orders", b"{"),
    ("GET", "/nowhere", b""),
    ("PUT", "/orders/7", b""),
    ("GET", "/openapi.json", b""),
]


def feature(name: str, log: MemoryLog) -> LiveRouter:
    live = LiveRouter(prefix=f"/{name}", tags=[name])

    @live.feed("", item=Item, collection=name, event=name)
    async def feed() -> Source:
        return log.topic(name)

    @live.get("/ticks", sse=True)
    async def ticks(stream: EventStream) -> None:
        await stream.send(name)

    return live


async def answers(app: FastAPI) -> list[tuple[int, list[tuple[str, str]], bytes]]:
    found = []
    async with serving(app) as port:
        for method, path, body in ASKED:
            headers = {"Content-Type": "application/json"} if body else {}
            async with request(port, path, method=method, headers=headers, body=body) as answer:
                shown = [each for each in answer.header_list if each[0] not in ("date",)]
                found.append((answer.status, shown, await answer.body()))
    return found


async def test_an_application_is_unchanged_by_three_routers():
    log = MemoryLog()
    before = await answers(existing())
    app = existing()
    for name in ("notes", "logs", "metrics"):
        app.include_router(feature(name, log), prefix="/api")
    after = await answers(app)
    assert after[:-1] == before[:-1]
    then, now = json.loads(before[-1][2]), json.loads(after[-1][2])
    assert now["openapi"] == then["openapi"]
    assert {path: now["paths"][path] for path in then["paths"]} == then["paths"]
    assert {"/api/notes", "/api/logs/stream", "/api/metrics/ticks"} <= set(now["paths"])
    schemas = now["components"]["schemas"]
    assert {name: schemas[name] for name in then["components"]["schemas"]} == then["components"][
        "schemas"
    ]
    async with serving(app) as port:
        await log.append("notes", {"n": 1})
        async with request(port, "/api/notes/stream") as answer:
            assert json.loads((await answer.next()).data)["notes"] == [{"n": 1}]


@pytest.mark.parametrize("half", ["", "/stream"])
async def test_a_feeds_own_errors_are_problems_unless_the_application_has_a_handler(half):
    app, live = existing(), LiveRouter()

    async def who(request: Request) -> None:
        if "x-status" in request.headers:
            status = int(request.headers["x-status"])
            raise HTTPException(status, {"code": status} if status == 409 else "refused")

    @live.feed("/notes", item=Item, requires=guard(who))
    async def notes(n: int = 0) -> Source:
        return MemoryLog().topic("notes")

    app.include_router(live)
    async with serving(app) as port:
        for headers, path, status, kind in (
            ({"X-Status": "403"}, f"/notes{half}", 403, "application/problem+json"),
            ({"X-Status": "409"}, f"/notes{half}", 409, "application/problem+json"),
            ({"X-Status": "404"}, f"/notes{half}", 404, "application/json"),
            ({}, f"/notes{half}?n=x", 422, "application/problem+json"),
            ({}, f"/notes{half}?limit=0", 422, "application/problem+json"),
        ):
            async with request(port, path, headers=headers) as answer:
                assert (answer.status, answer.headers["content-type"]) == (status, kind)
                body = json.loads(await answer.body())
                if status == 409:
                    assert body["detail"] == {"code": 409}
                if status == 404:
                    assert body == {"where": "nowhere"}
        async with request(port, "/notes?after=x") as answer:
            assert answer.status == 410
            assert json.loads(await answer.body())["reason"] == "unknown"


DEPENDENCIES = ("coroutine", "function", "yielding", "header", "overridden")


@pytest.mark.parametrize("prefix", ["", "/deep"])
async def test_a_405_names_all_methods_of_its_path(prefix):
    """RFC 9110, 15.5.6: HEAD too, where it is answered."""
    app, live = FastAPI(), LiveRouter(prefix=prefix)

    @live.feed("/things", item=Item, event="thing")
    def things() -> Source:
        return MemoryLog().topic("things")

    @live.delete("/things")
    async def clear() -> None: ...

    @live.api_route("/ticks", methods=["get"], sse=True)
    async def ticks(stream: EventStream) -> None: ...

    @live.post("/ticks", sse=True)
    async def tick(stream: EventStream) -> None: ...

    @live.get("/by-hand", sse=SSE(kind="manual"))
    async def by_hand(stream: EventStream) -> None: ...

    @live.run("/answers", Runs(MemoryLog()), owner=lambda: "ann")
    async def answer(run: Run) -> None: ...

    app.include_router(live, prefix="/api")
    async with serving(app) as port:
        for path, allowed in {
            "/things": "DELETE, GET, HEAD",
            "/things/stream": "GET, HEAD",
            "/ticks": "GET, HEAD, POST",
            "/by-hand": "GET",
            "/answers": "GET, HEAD, POST",
            "/answers/stream": "GET, HEAD",
            "/answers/1": "DELETE, GET, HEAD",
            "/answers/1/stream": "GET, HEAD",
            "/answers/1/cancel": "POST",
        }.items():
            async with request(port, f"/api{prefix}{path}", method="PATCH") as answered:
                assert (answered.status, answered.headers["allow"]) == (405, allowed), path


def setting(kind: str, ends: list[str]):
    """A dependency that sets a cookie, a header and a background task, in each form."""

    def write(response: Response, tasks: BackgroundTasks) -> None:
        response.set_cookie("seen", kind)
        response.headers["x-kind"] = kind
        tasks.add_task(ends.append, "background")

    async def coroutine(response: Response, tasks: BackgroundTasks) -> None:
        write(response, tasks)

    def function(response: Response, tasks: BackgroundTasks) -> None:
        write(response, tasks)

    async def yielding(response: Response, tasks: BackgroundTasks):
        write(response, tasks)
        yield
        ends.append("closed")

    async def header(response: Response, tasks: BackgroundTasks, request: Request) -> None:
        write(response, tasks)

    found = {"coroutine": coroutine, "function": function, "yielding": yielding, "header": header}
    return found.get(kind, coroutine)


@pytest.mark.parametrize("kind", DEPENDENCIES)
@pytest.mark.parametrize("path", ["/notes", "/notes/stream", "/ticks", "/dual"])
async def test_what_a_dependency_sets_reaches_the_client(kind, path):
    app, live, log, ends = FastAPI(), LiveRouter(), MemoryLog(), []
    depends = setting(kind, ends)

    @live.feed("/notes", item=Item, dependencies=[Depends(depends)])
    async def notes() -> Source:
        return log.topic("notes")

    @live.get("/ticks", sse=True, dependencies=[Depends(depends)])
    async def ticks(stream: EventStream) -> None:
        await stream.send("x")

    @live.get("/dual", sse=SSE(kind="dual"), dependencies=[Depends(depends)])
    async def dual(stream: EventStream | None) -> dict[str, int]:
        return {}

    app.include_router(live)
    if kind == "overridden":
        app.dependency_overrides[depends] = setting("coroutine", ends)
        kind = "coroutine"
    async with serving(app) as port:
        accept = {"Accept": "application/json" if path == "/dual" else "*/*"}
        async with request(port, path, headers=accept) as answer:
            assert answer.status == 200
            cookies = [value for name, value in answer.header_list if name == "set-cookie"]
            assert cookies == [f"seen={kind}; Path=/; SameSite=lax"]
            assert answer.headers["x-kind"] == kind
            if path == "/notes/stream":
                assert (await answer.next()).event == "snapshot"
                # What a dependency holds is closed before the stream waits.
                assert ends == (["closed"] if kind == "yielding" else [])
            else:
                await answer.body()
        await until(lambda: "background" in ends)
    assert ends.count("background") == 1


async def test_routers_of_one_loop_share_a_hub_and_name_the_two_that_differ():
    log = MemoryLog()
    one, two = LiveRouter(heartbeat=5.0), LiveRouter()
    for live, path in ((one, "/a"), (two, "/b")):

        @live.feed(path, item=Item)
        async def feed() -> Source:
            return log.topic("notes")

    app = FastAPI()
    inner = APIRouter(prefix="/inner", tags=["inner"])
    inner.include_router(two)
    app.include_router(one)
    app.include_router(inner, prefix="/v1")
    async with serving(app) as port:
        async with request(port, "/a/stream") as a, request(port, "/v1/inner/b/stream") as b:
            await a.next()
            await b.next()
            assert one.hub is two.hub
            assert one.stats.open == 2
            other = LiveRouter(heartbeat=6.0)
            with pytest.raises(DeclarationError) as raised:
                _ = other.hub
            assert "heartbeat=5.0" in str(raised.value)
            assert "heartbeat=6.0" in str(raised.value)
            assert str(raised.value).count("test_application.py, line ") == 2


async def test_the_same_router_in_two_applications_and_twice_in_one():
    live = feature("notes", MemoryLog())
    apps = [FastAPI(), FastAPI()]
    for app in apps:
        app.include_router(live)
    async with serving(apps[0]) as first, serving(apps[1]) as second:
        for port in (first, second):
            async with request(port, "/notes/stream") as answer:
                assert (await answer.next()).event == "snapshot"
    apps[0].include_router(live, prefix="/again")
    with pytest.raises(DeclarationError, match="is included twice in one application: include it"):
        async with apps[0].router.lifespan_context(apps[0]):
            pass


async def test_two_clients_of_a_test_run_one_application_at_once():
    """Each with the headers of another user, say."""
    app = FastAPI()
    app.include_router(feature("notes", MemoryLog()))
    async with LiveClient(app) as one:
        async with LiveClient(app) as two, two.stream("/notes/stream") as stream:
            await stream.next("snapshot")
        async with one.stream("/notes/stream") as stream:
            await stream.next("snapshot")


async def test_mounted_under_an_application_whose_lifespan_is_the_only_one(caplog):
    live = feature("notes", MemoryLog())
    inner = FastAPI()
    inner.include_router(live)
    async with serving(Starlette(routes=[Mount("/inner", inner)])) as port:
        async with request(port, "/inner/notes/stream") as answer:
            assert (await answer.next()).event == "snapshot"
            assert "lifespan_context" in caplog.text
            await live.drain(spread=0.1)
            await answer.rest()
            assert answer.retry


async def test_an_application_that_follows_rechecks_in_its_lifespan_is_not_warned(caplog):
    """An application's own lifespan begins before those of its routers."""
    log = MemoryLog()
    live = feature("notes", log)

    @asynccontextmanager
    async def lifespan(app):
        end = live.follow_rechecks(Topic(log, "changes"), lambda values: None)
        yield
        end()

    app = FastAPI(lifespan=lifespan)
    app.include_router(live)
    async with serving(app) as port:
        async with request(port, "/notes/stream") as answer:
            assert (await answer.next()).event == "snapshot"
    assert not caplog.text


async def test_announced_rechecks_are_kept_for_a_day():
    """Each sign-out may announce one, and nobody else removes them."""
    now = datetime.now(UTC) - timedelta(days=2)
    log, notes = MemoryLog(clock=lambda: now), MemoryLog()
    live = LiveRouter(log=log)

    @live.feed("/notes", item=Note)
    async def feed():
        return notes.topic("notes")

    app = FastAPI()
    app.include_router(live)
    await log.append("headwater:recheck", {"subject": "user:1", "by": "another process"})
    now += timedelta(days=2)
    async with serving(app) as port, request(port, "/notes/stream") as answer:
        await answer.next()
        await live.recheck("user:7")
        for _ in range(10):
            await asyncio.sleep(0)
        left = (await log.latest("headwater:recheck", 10)).records
        assert [record.data["subject"] for record in left] == ["user:7"]


async def test_a_flood_of_changes_of_rights_is_a_few_checks():
    """Somebody whose rights change all the time would else keep the process busy with them."""
    log, notes, live = MemoryLog(), MemoryLog(), LiveRouter()
    checks, begun, gate = 0, asyncio.Event(), asyncio.Event()

    async def permitted(request: Request) -> None:
        nonlocal checks
        identify(request, "user:7")
        checks += 1
        # The first is the request's own.
        if checks == 2:
            begun.set()
            await gate.wait()

    @live.feed("/notes", item=Note, requires=guard(permitted))
    async def feed():
        return notes.topic("notes")

    told: list[str] = []

    def subject_of(values: Mapping[str, str]) -> str:
        told.append(values["subject"])
        return told[-1]

    @asynccontextmanager
    async def lifespan(app):
        end = live.follow_rechecks(log.topic("changes"), subject_of)
        yield
        end()

    app = FastAPI(lifespan=lifespan)
    app.include_router(live)
    async with serving(app) as port, request(port, "/notes/stream") as answer:
        await answer.next()
        for number in range(1, 21):
            await log.append("changes", {"subject": "user:7"})
            await until(lambda number=number: len(told) == number)
            await begun.wait()
        before = checks
        gate.set()
        await until(lambda: checks > before)
        assert checks < 6


async def test_an_outer_application_may_run_the_lifespan_of_the_inner_one(caplog):
    live = feature("notes", MemoryLog())
    inner = FastAPI()
    inner.include_router(live)

    @asynccontextmanager
    async def lifespan(app):
        async with inner.router.lifespan_context(inner):
            yield

    async with serving(Starlette(routes=[Mount("/inner", inner)], lifespan=lifespan)) as port:
        async with request(port, "/inner/notes/stream") as answer:
            assert (await answer.next()).event == "snapshot"
    assert "lifespan_context" not in caplog.text


async def test_a_right_that_only_a_dependency_tells_is_checked_again():
    """Not every application uses guards: a plain dependency, sync, with yield, ends a stream."""
    app, live, log, allowed = FastAPI(), LiveRouter(), MemoryLog(), [True]

    def session(request: Request):
        if not allowed[0]:
            raise HTTPException(401, "signed out")
        yield request.path_params["team"]

    router = APIRouter(dependencies=[Depends(session)])

    @live.feed("/notes", item=Item)
    async def notes(team: str) -> Source:
        return log.topic(team)

    @live.get("/ticks", sse=True)
    async def ticks(stream: EventStream) -> None:
        stream.keep_alive()

    router.include_router(live)
    app.include_router(router, prefix="/teams/{team}")
    async with serving(app) as port:
        for path in ("/teams/a/notes/stream", "/teams/a/ticks"):
            allowed[0] = True
            async with request(port, path) as answer:
                await answer.until(b":\n\n" if path.endswith("ticks") else b"snapshot")
                await live.recheck()
                assert not answer.ended
                allowed[0] = False
                await live.recheck()
                (*_, last) = await answer.rest()
                assert (last.event, json.loads(last.data)) == ("error", {"status": 401})


async def test_a_poll_that_waits_ends_when_its_right_is_lost_or_its_client_leaves():
    app, live, log, allowed = FastAPI(), LiveRouter(), MemoryLog(), [True]

    async def who() -> None:
        if not allowed[0]:
            raise Problem(401, "signed out")

    @live.feed("/notes", item=Item, requires=guard(who))
    async def notes() -> Source:
        return log.topic("notes")

    app.include_router(live)
    async with serving(app) as port:
        asked = asyncio.create_task(_body(port, "/notes?wait=60"))
        await _waiting(live)
        allowed[0] = False
        await live.recheck()
        assert (await asked)[0] == 401
        allowed[0] = True
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /notes?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        await _waiting(live)
        writer.transport.abort()
        await _waiting(live, many=0)


async def _body(port: int, path: str) -> tuple[int, bytes]:
    async with request(port, path) as answer:
        return answer.status, await answer.body()


async def _waiting(live: LiveRouter, many: int = 1) -> None:
    await until(lambda: live.stats.waiting == many)


async def test_a_guard_decides_before_a_body_is_read_and_runs_once():
    app, live, calls = FastAPI(), LiveRouter(), []

    async def who(request: Request, response: Response) -> None:
        calls.append(request.url.path)
        response.headers["x-guard"] = "passed"
        if "x-user" not in request.headers:
            raise Problem(401, "who are you?")

    @live.post("/orders", dependencies=[guard(who)])
    async def create(order: Order) -> Order:
        return order

    @live.post("/answers", sse=SSE(kind="manual"))
    async def answer(order: Order, stream: EventStream) -> None:
        await stream.send(order.city)

    app.include_router(live)
    app.include_router(LiveRouter())
    outer = FastAPI()
    outer.include_router(app.router, dependencies=[guard(who)])
    async with serving(app) as port:
        head = b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"Content-Length: 1000\r\n\r\n")
        async with asyncio.timeout(10):
            assert b" 401 " in await reader.readuntil(b"\r\n")
        writer.transport.abort()
        calls.clear()
        sent = {"X-User": "ann", "Content-Type": "application/json"}
        for body, status in ((b'{"city": "Bergen"}', 200), (b"{", 422), (b"{}", 422)):
            async with request(port, "/orders", method="POST", headers=sent, body=body) as found:
                assert found.status == status
                if status == 200:
                    assert found.header_list.count(("x-guard", "passed")) == 1
        assert calls == ["/orders"] * 3
        sent = {"Content-Type": "application/json"}
        body = b'{"city": "Oslo"}'
        async with request(port, "/answers", method="POST", headers=sent, body=body) as found:
            assert (await found.next()).data == "Oslo"


def test_declarations_that_cannot_work_say_what_to_write():
    live = LiveRouter(prefix="/notes")

    @live.feed("", item=Item)
    async def feed() -> Source: ...

    with pytest.raises(DeclarationError, match="'/notes' is declared twice"):
        live.feed("", item=Item)
    with pytest.raises(DeclarationError, match=r"prefix='/notes'"):
        LiveRouter().feed("", item=Item)
    with pytest.raises(DeclarationError, match=r"declare @live.get\('/x', sse=True\)"):
        live.websocket("/x", sse=True)
    with pytest.raises(DeclarationError, match="recheck=31"):
        LiveRouter(recheck=31)
    with pytest.raises(DeclarationError, match="problems='all'"):
        live.install(FastAPI(), problems="all")


async def test_guards_come_first_also_where_a_route_does_not_say_that_it_has_a_body(monkeypatch):
    """FastAPI does not document that name, so a version without it must do."""
    app, live, calls = FastAPI(), LiveRouter(), []

    async def who(request: Request) -> None:
        calls.append(request.url.path)
        if "x-user" not in request.headers:
            raise Problem(401, "who are you?")

    @live.post("/orders", dependencies=[guard(who)])
    async def create(order: Order) -> Order:
        return order

    @live.feed("/notes", item=Item, requires=guard(who))
    async def notes() -> Source:
        return MemoryLog().topic("notes")

    monkeypatch.setattr("headwater.web._guards.BODY_FIELD", "gone_in_a_later_version")
    app.include_router(live)
    async with serving(app) as port:
        sent = {"Content-Type": "application/json"}
        async with request(port, "/orders", method="POST", headers=sent, body=b"{") as found:
            assert found.status == 401
        user = {**sent, "X-User": "ann"}
        body = b'{"city": "Oslo"}'
        async with request(port, "/orders", method="POST", headers=user, body=body) as found:
            assert found.status == 200
        async with request(port, "/notes/stream", headers=user) as found:
            assert (await found.next()).event == "snapshot"
            await live.recheck()
    assert calls.count("/orders") == 2


@pytest.mark.parametrize("kind", [500, Exception])
async def test_install_leaves_the_applications_handler_of_what_nobody_expected(kind):
    app, live = existing(), LiveRouter()

    @app.exception_handler(kind)
    async def unexpected(_: Request, error: Exception) -> Response:
        return JSONResponse({"oops": str(error)}, 500)

    live.install(app, problems="application")
    async with serving(app, log_level="critical") as port:
        async with request(port, "/fault") as answer:
            assert json.loads(await answer.body()) == {"oops": "a bug"}


async def test_a_handler_of_the_application_may_be_an_object(recwarn):
    app, live, calls = FastAPI(), LiveRouter(), []

    class Handler:
        async def __call__(self, request: Request, error: Exception) -> Response:
            calls.append(request.url.path)
            return JSONResponse({}, 418)

    def refuse() -> None:
        raise HTTPException(409)

    @live.feed("/notes", item=Item, requires=Depends(refuse))
    async def notes() -> Source: ...

    app.add_exception_handler(HTTPException, Handler())
    app.include_router(live)
    async with serving(app) as port:
        async with request(port, "/notes/stream") as answer:
            assert answer.status == 418
    assert calls == ["/notes/stream"]
    assert not [each for each in recwarn if "never awaited" in str(each.message)]


@pytest.mark.parametrize("path", ["/notes", "/notes/stream", "/ticks"])
async def test_an_error_that_the_application_answers_with_500_is_answered(path):
    """It is no fault of the server for which nobody has an answer."""
    app, live = FastAPI(), LiveRouter()

    @app.exception_handler(LookupError)
    async def lost(_: Request, error: Exception) -> Response:
        return JSONResponse({"lost": str(error)}, 500)

    @live.feed("/notes", item=Item)
    async def notes() -> Source:
        raise IndexError("a note")

    @live.get("/ticks", sse=True)
    async def ticks(stream: EventStream) -> None:
        raise IndexError("a note")

    app.include_router(live)
    async with LiveClient(app) as client:
        answer = await client.get(path, headers={"Accept": "*/*"})
    assert (answer.status_code, answer.json()) == (500, {"lost": "a note"})


def headers_of_mine(response: Response) -> None:
    """A dependency that sets what is the feed's to say, and a header of its own."""
    response.headers["etag"] = '"mine"'
    response.headers["cache-control"] = "public"
    response.headers["content-type"] = "text/mine"
    response.headers["x-mine"] = "kept"


async def test_a_page_has_one_tag_and_one_media_type_whatever_dependencies_set():
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()

    @live.feed("/notes", item=Item, dependencies=[Depends(headers_of_mine)])
    async def notes() -> Source:
        return log.topic("notes")

    app.include_router(live)
    async with serving(app) as port:
        async with request(port, "/notes") as answer:
            names = [name for name, _ in answer.header_list]
            assert (names.count("etag"), names.count("content-type")) == (1, 1)
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-mine"] == "kept"


@pytest.mark.parametrize("path", ["/notes/stream", "/ticks"])
async def test_head_of_a_stream_has_the_headers_of_the_stream(path):
    """Whatever dependencies set: RFC 9110, 9.3.2."""
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()

    @live.feed("/notes", item=Item, dependencies=[Depends(headers_of_mine)])
    async def notes() -> Source:
        return log.topic("notes")

    @live.get("/ticks", sse=True, dependencies=[Depends(headers_of_mine)])
    async def ticks(stream: EventStream) -> None:
        await stream.send("x")

    app.include_router(live)
    async with LiveClient(app) as client, client.stream(path) as stream:
        head = await client.http.head(path)
        assert head.headers.raw == stream.headers.raw
        assert head.headers["x-mine"] == "kept"
