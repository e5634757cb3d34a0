"""Runs in Starlette alone: the routes that FastAPI's applications have, without it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.web.starlette import LiveRoutes, Run, Runs, SyncRun, identify
from support.http import request as opened
from support.server import serving, stoppable
from support.until import until


class Question(BaseModel):
    text: str
    conversation: str | None = None


class Rig:
    """One Starlette application with runs under ``/api``.

    Attributes:
        go: the answers wait for it.
        handed: what was given to the queue.
        left: callers that may do nothing any more.
    """

    def __init__(self) -> None:
        self.live = LiveRoutes(recheck=30)
        self.runs = Runs(MemoryLog())
        self.go = asyncio.Event()
        self.handed: list[str] = []
        self.left: set[str] = set()

        async def user(request: Request) -> str | None:
            name = request.headers.get("x-user")
            if name in self.left:
                raise HTTPException(403, "Not any more.")
            if name is not None:
                identify(request, f"user:{name}")
            return name

        @self.live.run(
            *("/answers", self.runs),
            owner=user,
            body=Question,
            group="conversation",
            busy="reject",
        )
        async def answer(run: Run, request: Request) -> dict[str, Any]:
            await run.delta("Well, ")
            await self.go.wait()
            await run.delta(run.input["text"])
            return {"tone": request.query_params.get("tone")}

        @self.live.run("/rooms/{room}/plain", self.runs, owner=user, max_body=100)
        def plain(run: SyncRun, request: Request) -> Any:
            run.delta(request.path_params["room"])
            return run.input

        @self.live.run("/exports", self.runs, owner=user, start=self.handed.append)
        def export(request: Request) -> Any:
            return {"by": request.headers["x-user"]} if "own" in request.query_params else None

        self.app = Starlette(
            routes=[Mount("/api", routes=self.live.routes)], lifespan=self.live.lifespan
        )


class Client:
    """HTTP as one user."""

    def __init__(self, http: httpx.AsyncClient, user: str | None = "ann") -> None:
        self._http = http
        self._user = {} if user is None else {"X-User": user}

    async def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self._user, **options.pop("headers", {})}
        return await self._http.request(method, path, headers=headers, **options)


@asynccontextmanager
async def rigged() -> AsyncIterator[tuple[Rig, int, httpx.AsyncClient]]:
    rig = Rig()
    async with (
        serving(rig.app) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        yield rig, port, http


def told(text: str) -> list[tuple[str, Any]]:
    blocks = (block.splitlines() for block in text.replace("\r", "").split("\n\n"))
    fields = [dict(line.split(": ", 1) for line in block if ": " in line) for block in blocks]
    return [(one["event"], json.loads(one["data"])) for one in fields if "event" in one]


async def test_a_405_names_head_where_it_is_answered() -> None:
    async with rigged() as (_, _, http):
        for path in ("", "/stream", "/1", "/1/stream"):
            answer = await http.patch(f"/api/answers{path}")
            assert answer.status_code == 405
            assert {"GET", "HEAD"} <= set(answer.headers["allow"].split(", "))


async def test_a_run_is_started_once_followed_listed_cancelled_and_deleted() -> None:
    async with rigged() as (rig, _, http):
        ann, bob, nobody = Client(http), Client(http, "bob"), Client(http, None)
        body, key = {"text": "why", "conversation": "c"}, {"Idempotency-Key": "k"}
        first = await ann("POST", "/api/answers?tone=dry", json=body, headers=key)
        assert first.status_code == 202
        path = first.headers["location"]
        assert path == f"/api/answers/{first.json()['id']}"
        again = await ann("POST", "/api/answers?tone=dry", json=body, headers=key)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert (await ann("POST", "/api/answers", json=body, headers=key)).status_code == 422
        assert (await ann("POST", "/api/answers", json=body)).status_code == 409
        assert (await ann("DELETE", path)).status_code == 409
        for method, suffix in (("GET", ""), ("GET", "/stream"), ("POST", "/cancel")):
            assert (await bob(method, path + suffix)).status_code == 404
            assert (await nobody(method, path + suffix)).status_code == 401
        rig.go.set()
        stream = await ann("GET", f"{path}/stream")
        events = told(stream.text)
        assert [name for name, _ in events][:1] + [name for name, _ in events][-1:] == [
            "run",
            "end",
        ]
        said = "".join(data["text"] for name, data in events if name == "delta")
        assert (said, events[-1][1]) == ("Well, why", {"state": "done"})
        last = [line for line in stream.text.splitlines() if line.startswith("id: ")][-1][4:]
        back = await ann("GET", f"{path}/stream", headers={"Last-Event-ID": last})
        assert back.status_code == 204
        found = (await ann("GET", f"{path}?fold=true")).json()
        assert (found["state"], found["result"], found["text"]) == (
            *("done", {"tone": "dry"}),
            "Well, why",
        )
        (listed,) = (await ann("GET", "/api/answers?state=done&group=c")).json()["runs"]
        assert listed["id"] == found["id"] and "result" not in listed
        assert (await ann("POST", f"{path}/cancel")).status_code == 200
        assert (await ann("DELETE", path)).status_code == 204
        assert (await ann("GET", path)).status_code == 404


def _posted(port: int, body: bytes) -> Any:
    """A start that asks for its stream."""
    headers = {"X-User": "ann", "Accept": "text/event-stream"}
    return opened(port, "/api/answers", method="POST", headers=headers, body=body)


async def test_a_start_may_be_answered_with_the_stream_and_be_cancelled() -> None:
    async with rigged() as (_, port, http):
        body = b'{"text": "why"}'
        async with _posted(port, body) as stream:
            await stream.until(b"Well")
            cancelled = await Client(http)("POST", f"{stream.headers['location']}/cancel")
            assert cancelled.status_code == 202
            assert (await stream.rest())[-1].data == '{"state":"cancelled"}'


async def test_a_right_that_is_lost_ends_the_stream_of_a_start_too() -> None:
    async with rigged() as (rig, port, _):
        body = b'{"text": "secret"}'
        async with _posted(port, body) as stream:
            await stream.until(b"Well")
            await rig.live.recheck("user:ann")
            rig.left.add("ann")
            await rig.live.recheck("user:ann")
            assert (await stream.rest())[-1].event == "error"
            rig.go.set()
            assert b"secret" not in stream.raw


async def test_code_without_an_event_loop_and_a_queue() -> None:
    async with rigged() as (rig, _, http):
        ann = Client(http)
        path = (await ann("POST", "/api/rooms/7/plain", json=[1])).headers["location"]
        assert told((await ann("GET", f"{path}/stream")).text)[-2:] == [
            ("delta", {"text": "7"}),
            ("end", {"state": "done"}),
        ]
        assert (await ann("GET", path)).json()["result"] == [1]
        for query, wanted in (("", {"rows": 3}), ("?own", {"by": "ann"})):
            made = (await ann("POST", f"/api/exports{query}", json={"rows": 3})).json()
            assert (made["state"], rig.handed[-1]) == ("queued", made["id"])
            async with rig.runs.attempt(made["id"]) as run:
                assert run.input == wanted


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/api/answers", b'{"text": 7}', 422, "text"),
        ("POST", "/api/answers", b"{", 422, "JSON"),
        ("POST", "/api/rooms/7/plain", b"{", 422, "not JSON"),
        ("POST", "/api/rooms/7/plain", b"[" + b"1," * 60 + b"1]", 413, "100 bytes"),
        ("POST", "/api/exports", b"[" * 100_000, 422, "not JSON"),
        ("POST", "/api/exports", b"[" * 150 + b"]" * 150, 422, "nested too deeply"),
        ("POST", "/api/exports", b"NaN", 422, "not JSON"),
        ("POST", "/api/exports", b'"\\ud800"', 422, "surrogate"),
        ("GET", "/api/answers?state=odd", b"", 422, "queued, running"),
        ("GET", "/api/answers/unknown?fold=maybe", b"", 422, "fold"),
        ("GET", "/api/answers/unknown", b"", 404, "unknown"),
    ],
)
async def test_bad_input_says_what_is_wrong(
    method: str, path: str, body: bytes, status: int, words: str
) -> None:
    async with rigged() as (_, _, http):
        answer = await Client(http)(method, path, content=body)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert words in answer.json()["detail"]


async def test_a_client_that_leaves_before_the_end_of_its_body_is_no_error(capfd: Any) -> None:
    async with rigged() as (_, port, http):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = ["POST /api/answers HTTP/1.1", "Host: a", "X-User: ann", "Content-Length: 20"]
        writer.write("\r\n".join([*head, "Expect: 100-continue", "", ""]).encode())
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(b'{"text"')
        writer.close()
        listed = await Client(http)("GET", "/api/answers")
        assert listed.json()["runs"] == []
    # The server has ended, and so has that request.
    assert "Traceback" not in capfd.readouterr().err


async def test_a_server_that_is_stopped_ends_its_runs_at_once() -> None:
    rig = Rig()
    async with Runs(rig.runs.log) as other:
        async with stoppable(rig.app) as (port, stop):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                made = await Client(http)("POST", "/api/answers", json={"text": "why"})
            await until(lambda: rig.runs.state(made.json()["id"]))
            stop()
        assert (await other.state(made.json()["id"])).state == "lost"


def test_declarations_that_cannot_work() -> None:
    live, runs = LiveRoutes(), Runs(MemoryLog())
    for options, words in (
        ({"runs": MemoryLog()}, "Runs"),
        ({"owner": "me"}, "function of the request"),
        ({"busy": "odd"}, "busy"),
        ({"path": "answers"}, "write a path such as '/logs'"),
    ):
        given = {"path": "/a", "runs": runs, "owner": lambda _: "me", **options}
        with pytest.raises(DeclarationError, match=words):
            live.run(**given)(lambda run, request: None)


def test_it_needs_no_fastapi() -> None:
    code = (
        "import sys; from headwater.web.starlette import LiveRoutes, Runs\n"
        "from headwater.eventlog import MemoryLog\n"
        "live = LiveRoutes()\n"
        "live.run('/a', Runs(MemoryLog()), owner=lambda _: 'me')(lambda run, request: None)\n"
        "print('fastapi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
