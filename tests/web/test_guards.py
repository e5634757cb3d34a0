"""Guards and requirements: where they are declared, and which of them a request meets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    Security,
    WebSocket,
    WebSocketException,
)
from fastapi.security import HTTPBearer, SecurityScopes
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs
from headwater.testing import LiveClient
from headwater.web.fastapi import SSE, EventStream, GuardedRoute, LiveRouter, Source, guard
from support.http import request
from support.server import serving
from support.until import until


class Item(BaseModel):
    n: int


def only(who: str):
    async def check(request: Request) -> None:
        if request.headers.get("x-user") != who:
            raise HTTPException(403, f"only {who}")

    return guard(check)


async def test_a_router_that_is_included_twice_asks_the_guards_of_the_place():
    shared = APIRouter(route_class=GuardedRoute)

    @shared.post("/{team}/notes")
    async def create(team: str, item: Item) -> str:
        return team

    inner, app = FastAPI(), FastAPI()
    for who in ("ann", "bob"):
        inner.include_router(shared, prefix=f"/{who}", dependencies=[only(who)])
    inner.include_router(shared, prefix="/all")
    app.mount("/inner", inner)
    async with serving(app) as port:
        for place, who, status in (
            ("ann", "ann", 422),
            ("ann", "bob", 403),
            ("bob", "bob", 422),
            ("bob", "ann", 403),
            ("all", "eve", 422),
        ):
            sent = {"X-User": who, "Content-Type": "application/json"}
            path = f"/inner/{place}/red/notes"
            async with request(port, path, method="POST", headers=sent, body=b"{") as answer:
                assert (place, who, answer.status) == (place, who, status)


@pytest.mark.parametrize("requires", ["", [], ["notes.view", ""], 5])
def test_requires_names_a_permission(requires):
    live = LiveRouter(requires=lambda permission: only(permission))
    with pytest.raises(DeclarationError, match="leave requires= out for a feed that everybody"):
        live.feed("/notes", item=Item, requires=requires)


@pytest.mark.parametrize("made", [None, lambda: None, [Depends(lambda: None)]])
def test_what_makes_guards_must_make_one(made):
    live = LiveRouter(requires=lambda permission: made)
    with pytest.raises(DeclarationError, match="of 'notes.view': return guard"):
        live.feed("/notes", item=Item, requires="notes.view")


async def test_a_permission_that_a_dependency_checks_comes_before_the_body():
    """Otherwise 422 tells a stranger that the route is there, and what it takes."""

    def ann(request: Request) -> None:
        if request.headers.get("x-user") != "ann":
            raise HTTPException(403)

    app, live = FastAPI(), LiveRouter(requires=lambda permission: Depends(ann))

    @live.run("/runs", Runs(MemoryLog()), owner=lambda: "ann", requires="runs.start")
    async def run(run: Run, asked: Item) -> None: ...

    app.include_router(live)
    async with LiveClient(app) as client:
        for who, status in (("eve", 403), ("ann", 422)):
            sent = {"X-User": who, "Content-Type": "application/json"}
            assert (await client.post("/runs", headers=sent, content="{")).status_code == status


@pytest.mark.parametrize("given", [only("ann"), [lambda: None], "ann"])
def test_dependencies_are_a_list_of_depends(given):
    live, log = LiveRouter(), MemoryLog()

    def notes() -> Source:
        return log.topic("notes")

    with pytest.raises(DeclarationError, match=r"a list of Depends\(...\) or guard"):
        live.feed("/notes", item=Item, dependencies=given)(notes)


async def test_a_requirement_keeps_its_scopes():
    """A guard that is asked for no scopes would let everybody pass."""
    app, live, log = FastAPI(), LiveRouter(), MemoryLog()

    def allowed(scopes: SecurityScopes, request: Request) -> None:
        held = request.headers.get("x-scopes", "").split()
        if not set(scopes.scopes) <= set(held):
            raise HTTPException(403, f"needed: {scopes.scope_str}")

    def owner(scopes: SecurityScopes, request: Request) -> str:
        allowed(scopes, request)
        return "ann"

    @live.feed("/notes", item=Item, requires=Security(allowed, scopes=["notes", "read"]))
    async def notes() -> Source:
        return log.topic("notes")

    @live.run("/runs", Runs(log), owner=Security(owner, scopes=["notes", "read"]))
    async def run(run: Run) -> None: ...

    app.include_router(live)
    async with serving(app) as port:
        for path in ("/notes", "/runs"):
            for held, status in (("notes", 403), ("notes read", 200)):
                async with request(port, path, headers={"X-Scopes": held}) as answer:
                    assert (path, answer.status) == (path, status)


@pytest.mark.parametrize("requires", [Depends(HTTPBearer()), guard(HTTPBearer())])
def test_a_security_scheme_as_a_requirement_is_in_the_document(requires):
    app, live = FastAPI(), LiveRouter()

    @live.feed("/notes", item=Item, requires=requires)
    async def notes() -> Source: ...

    app.include_router(live)
    for path in ("/notes", "/notes/stream"):
        assert app.openapi()["paths"][path]["get"]["security"] == [{"HTTPBearer": []}]


@pytest.mark.parametrize("path", ["/streamed", "/answered"])
async def test_what_a_guard_sets_reaches_the_client_of_a_route_with_a_body(path):
    """There it runs before the body is read, and FastAPI runs the dependencies again after that."""
    app, live, ran, calls = FastAPI(), LiveRouter(), [], []

    def session(response: Response) -> None:
        response.headers["x-seen"] = "by the session"

    def who(response: Response, tasks: BackgroundTasks, _: None = Depends(session)) -> None:
        calls.append("guard")
        response.headers["x-seen"] = "by the guard"
        response.set_cookie("visits", str(len(calls)))
        tasks.add_task(ran.append, "background")

    @live.post("/streamed", sse=SSE(kind="manual"), dependencies=[guard(who)])
    async def streamed(item: Item, stream: EventStream) -> None:
        await stream.send("x")

    @live.post("/answered", dependencies=[guard(who)])
    async def answered(item: Item) -> Item:
        return item

    app.include_router(live)
    async with serving(app) as port:
        sent = {"Content-Type": "application/json"}
        async with request(port, path, method="POST", headers=sent, body=b'{"n":1}') as answer:
            await answer.body()
            assert [value for name, value in answer.header_list if name == "x-seen"] == [
                "by the guard"
            ]
            cookies = [value for name, value in answer.header_list if name == "set-cookie"]
            assert cookies == ["visits=1; Path=/; SameSite=lax"]
        await until(lambda: bool(ran))
    assert (calls, ran) == (["guard"], ["background"])


@pytest.mark.parametrize("allowed", [True, False])
async def test_the_guards_of_an_application_hold_for_its_websockets(allowed):
    sent = []

    def who(connection: HTTPConnection) -> None:
        if not allowed:
            raise WebSocketException(1008, "who are you?")

    def also() -> None: ...

    app, live = FastAPI(dependencies=[guard(who)]), LiveRouter(dependencies=[guard(also)])

    @live.websocket("/socket")
    async def socket(socket: WebSocket) -> None:
        await socket.accept()

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message) -> None:
        sent.append(message["type"])

    app.include_router(live)
    scope = {"type": "websocket", "path": "/socket", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    assert sent == ["websocket.accept" if allowed else "websocket.close"]


async def test_what_guards_hold_is_closed_before_a_route_with_a_body_runs():
    """A request that holds two connections of a pool can wait for ever for the second one."""
    held: list[int] = []

    async def session() -> AsyncIterator[int]:
        assert not held
        held.append(1)
        yield 1
        held.pop()

    async def check(_: int = Depends(session)) -> None: ...

    app, router = FastAPI(), APIRouter(route_class=GuardedRoute)

    @router.post("/things", dependencies=[guard(check)])
    async def create(item: Item, _: int = Depends(session)) -> int:
        return len(held)

    app.include_router(router)
    async with LiveClient(app) as client:
        answer = await client.post("/things", json={"n": 1})
    assert (answer.json(), held) == (1, [])


class Session:
    open = False


async def a_session() -> AsyncIterator[Session]:
    session = Session()
    session.open = True
    yield session
    session.open = False


async def a_user(session: Session = Depends(a_session)) -> Session:
    return session


async def test_what_a_handler_takes_of_a_guard_is_of_the_handlers_session():
    """A change of a row that another session has read, and that is closed, would be lost."""
    app, router = FastAPI(), APIRouter(route_class=GuardedRoute)
    router.dependencies.append(guard(a_user))

    def friend(user: Session = Depends(a_user)) -> Session:
        return user

    @router.post("/things")
    async def create(
        item: Item, session: Session = Depends(a_session), user: Session = Depends(friend)
    ) -> bool:
        return user is session and user.open

    app.include_router(router)
    async with LiveClient(app) as client:
        assert (await client.post("/things", json={"n": 1})).json() is True
