"""The routes of runs, over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import pytest
from fastapi import Depends, Request
from pydantic import BaseModel

from headwater.errors import DeclarationError
from headwater.eventlog import MemoryLog
from headwater.runs import RunFailed
from headwater.web.convention import breaches
from headwater.web.fastapi import (
    LiveRouter,
    Problem,
    Run,
    Runs,
    StreamLimits,
    SyncRun,
    identify,
)
from support.application import Application
from support.http import Answer, request
from support.server import serving, stoppable
from support.until import until

# Streams write to the connection themselves, or through ASGI.
DIRECT, ASGI = "headwater.web.uvicorn:Protocol", "httptools"


class Question(BaseModel):
    text: str = ""
    conversation: str | None = None


@dataclass
class Rig:
    """An application with runs, and what its tests steer.

    Attributes:
        go: handlers wait for it.
        begun: the ids of runs whose handlers have begun, in order.
        allowed: callers that may do anything at all.
        handed: what was given to the queue.
    """

    live: LiveRouter
    runs: Runs
    port: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    allowed: set[str] = field(default_factory=lambda: {"ann", "bob"})
    handed: list[str] = field(default_factory=list)

    async def ask(
        self, path: str = "/answers", body: Any = None, user: str = "ann", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """POST; the status, the headers and the JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.fetch(path, "POST", user, json.dumps(body or {}).encode(), **named)

    async def fetch(
        self, path: str, method: str = "GET", user: str = "ann", body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        async with self.open(path, method, user, body, **headers) as answer:
            text = b"" if answer.status == 204 or method == "HEAD" else await answer.body()
            return answer.status, answer.headers, json.loads(text) if text else None

    @asynccontextmanager
    async def open(
        self, path: str, method: str = "GET", user: str = "ann", body: bytes = b"", **headers: str
    ) -> AsyncIterator[Answer]:
        named = {"X-User": user, "Content-Type": "application/json", **headers}
        path = path if path.startswith("/api") else "/api" + path
        async with request(self.port, path, method=method, headers=named, body=body) as answer:
            yield answer

    async def state(self, run_id: str, path: str = "/answers") -> str:
        return str((await self.fetch(f"{path}/{run_id}"))[2]["state"])

    async def ended(self, run_id: str, path: str = "/answers") -> str:
        async def state() -> str | None:
            found = await self.state(run_id, path)
            return None if found in ("queued", "running") else found

        return str(await until(state))


def made(**options: Any) -> tuple[Rig, Application]:
    live = LiveRouter(recheck=30)
    rig = Rig(live, Runs(MemoryLog(), lease=30.0, grace=5.0))
    app = Application(live, prefix="/api")

    def user(request: Request) -> str:
        name = request.headers.get("X-User", "")
        if not name:
            raise Problem(401, "Sign in first.")
        identify(request, f"user:{name}")
        if name not in rig.allowed:
            raise Problem(403, "Not allowed.")
        return name

    @live.run("/answers", rig.runs, owner=user, group="conversation", busy="reject", **options)
    async def answers(run: Run, question: Question, more: int = 0) -> Any:
        """Answers a question."""
        rig.begun.append(run.id)
        await run.delta("Well, ")
        if question.text == "fail":
            raise RunFailed("No idea.")
        await rig.go.wait()
        await run.delta(question.text)
        await run.send("sources", [more])
        return {"ok": True}

    @live.run("/plain", rig.runs, owner=Annotated[str, Depends(user)].__metadata__[0])
    def plain(run: SyncRun) -> None:
        run.delta("plain")

    @live.run("/exports", rig.runs, owner=user, start=rig.handed.append)
    async def exports(question: Question) -> Any:
        return {"table": question.text} if question.text else None

    return rig, app


@asynccontextmanager
async def rigged(http: str = DIRECT, **options: Any) -> AsyncIterator[Rig]:
    rig, app = made(**options)
    async with serving(app, http=http) as port:
        rig.port = port
        yield rig


def told(messages: list[Any]) -> list[tuple[str, Any]]:
    return [(each.event, json.loads(each.data)) for each in messages]


@pytest.mark.parametrize("http", [DIRECT, ASGI])
async def test_a_run_outlives_its_request_and_is_followed_by_anybody_who_may(http: str):
    """The heart of it: start, leave, come back, and have all of it."""
    async with rigged(http) as rig:
        status, headers, run = await rig.ask(body={"text": "42"})
        assert (status, run["state"], run["result"]) == (202, "running", None)
        assert headers["location"] == f"/api/answers/{run['id']}"
        assert headers["cache-control"] == "private, no-cache"
        path = headers["location"]
        async with rig.open(f"{path}/stream") as stream:
            assert stream.status == 200
            event, data = told([await stream.next()])[0]
            assert (event, data) == ("run", run)
            delta = await stream.next()
            assert told([delta]) == [("delta", {"text": "Well, "})]
            rig.go.set()
            rest = await stream.rest()
            wanted = [
                ("delta", {"text": "42"}), ("sources", [0]), ("end", {"state": "done"}),
            ]  # fmt: skip
            assert told(rest) == wanted
        status, _, state = await rig.fetch(path)
        assert (status, state["state"], state["result"]) == (200, "done", {"ok": True})
        assert state["ended_at"] >= state["created_at"] == run["created_at"]
        assert set(state) == {
            "id", "state", "result", "error", "group", "attempt", "created_at", "ended_at",
        }  # fmt: skip
        async with rig.open(f"{path}/stream") as again:
            late = told(await again.rest())
        assert late == [("run", state), ("delta", {"text": "Well, 42"}), *wanted[1:]]
        async with rig.open(f"{path}/stream", **{"Last-Event-ID": delta.last_event_id}) as resumed:
            assert told(await resumed.rest()) == wanted
        end = rest[-1].last_event_id
        status, headers, _ = await rig.fetch(f"{path}/stream", **{"Last-Event-ID": end})
        assert status == 204 and "content-type" not in headers, "a browser stops at this"
        assert (await rig.fetch(f"{path}/stream?lastEventId={end}"))[0] == 204
        assert (await rig.fetch(path, "HEAD"))[0] == 200
        assert (await rig.fetch(f"{path}/stream", "HEAD"))[0] == 200


async def test_a_start_that_accepts_a_stream_is_answered_with_it():
    """A client that shows the answer anyway needs one request."""
    async with rigged() as rig:
        rig.go.set()
        body = json.dumps({"text": "x"}).encode()
        async with rig.open("/answers", "POST", body=body, Accept="text/event-stream") as stream:
            assert stream.status == 200
            events = told(await stream.rest())
            assert stream.headers["location"].endswith(events[0][1]["id"])
        assert [name for name, _ in events][0] == "run"
        assert events[-1] == ("end", {"state": "done"})
        body = b"{}"
        async with rig.open("/plain", "POST", body=body, Accept="text/event-stream") as stream:
            assert told(await stream.rest())[1:] == [
                ("delta", {"text": "plain"}), ("end", {"state": "done"}),
            ]  # fmt: skip


async def test_a_client_that_leaves_cancels_only_where_it_is_said_so():
    """A reload must not kill the work, and an abandoned chat may cost money."""
    for options, wanted in (({}, "done"), ({"on_disconnect": "cancel"}, "cancelled")):
        async with rigged(**options) as rig:
            run_id = (await rig.ask())[2]["id"]
            async with rig.open(f"/answers/{run_id}/stream") as other:
                await other.until(b"Well")
                async with rig.open(f"/answers/{run_id}/stream") as stream:
                    await stream.until(b"Well")
                    stream.leave()
                await until(lambda rig=rig: rig.live.stats.open == 1)
                assert await rig.state(run_id) == "running", "another client is there"
                other.leave()
            await until(lambda rig=rig: rig.live.stats.open == 0)
            if not options:
                rig.go.set()
            assert await rig.ended(run_id) == wanted


@pytest.mark.parametrize("sent", [b"", b"1", b'{"n": 12'])
async def test_a_client_that_leaves_before_the_end_of_its_body_starts_nothing(sent: bytes):
    """The function of this path takes no body, so nothing but the route reads it."""
    async with rigged() as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        head = ["POST /api/plain HTTP/1.1", "Host: a", "X-User: ann", "Content-Length: 20"]
        writer.write("\r\n".join([*head, "Expect: 100-continue", "", ""]).encode())
        await reader.readuntil(b"100 Continue\r\n\r\n")
        writer.write(sent)
        writer.close()
        # A whole request after it: the server has seen the end of the other one by then.
        run_id = (await rig.ask("/plain"))[2]["id"]
        await until(lambda: not rig.live.stats.open)
        runs = (await rig.fetch("/plain"))[2]["runs"]
        assert [run["id"] for run in runs] == [run_id]


async def test_what_only_claims_to_be_json_starts_nothing():
    async with rigged() as rig:
        for body in (b"{", b"[" * 100_000, b'{"a": "\xff"}'):
            status, _, problem = await rig.fetch("/plain", "POST", body=body)
            assert status == 422 and problem["detail"].startswith("The body is not JSON: ")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await rig.fetch("/plain", "POST", body=b"a=1", **form))[0] == 202
        assert len((await rig.fetch("/plain"))[2]["runs"]) == 1


async def test_the_same_key_gives_the_same_run():
    """A client that heard no answer asks again, and pays once."""
    async with rigged() as rig:
        same = {"body": {"text": "x"}, "Idempotency_Key": "k1"}
        answers = await asyncio.gather(*(rig.ask(**same) for _ in range(50)))
        assert {status for status, _, _ in answers} == {202}
        (run_id,) = {run["id"] for _, _, run in answers}
        await until(lambda: rig.begun)
        assert rig.begun == [run_id]
        status, _, problem = await rig.ask(body={"text": "y"}, Idempotency_Key="k1")
        assert status == 422 and "another body" in problem["detail"]
        assert (await rig.ask(**same, user="bob"))[2]["id"] != run_id
        status, _, problem = await rig.ask(Idempotency_Key="a b")
        assert status == 422 and "Idempotency-Key" in problem["detail"]
        rig.go.set()


async def test_one_run_of_a_conversation():
    """Of fifty that come at once with different keys, one begins."""
    async with rigged() as rig:
        body = {"text": "x", "conversation": "c"}
        answers = await asyncio.gather(
            *(rig.ask(body=body, Idempotency_Key=f"k{n}") for n in range(50))
        )
        codes = sorted(status for status, _, _ in answers)
        assert codes == [202] + [409] * 49
        (begun,) = [run for status, _, run in answers if status == 202]
        assert {p["run"]["id"] for status, _, p in answers if status == 409} == {begun["id"]}
        assert (await rig.ask(body=body, user="bob"))[0] == 202, "another's is another"
        status, _, problem = await rig.ask(body={"conversation": None})
        assert status == 202
        rig.go.set()


async def test_cancelling_and_deleting():
    """Each answers what it did, also the second time."""
    async with rigged() as rig:
        run_id = (await rig.ask())[2]["id"]
        await until(lambda: rig.begun)
        status, _, problem = await rig.fetch(f"/answers/{run_id}", "DELETE")
        assert status == 409 and problem["run"]["state"] == "running"
        status, _, run = await rig.fetch(f"/answers/{run_id}/cancel", "POST")
        assert status == 202 and run["id"] == run_id
        assert await rig.ended(run_id) == "cancelled"
        status, _, run = await rig.fetch(f"/answers/{run_id}/cancel", "POST")
        assert (status, run["state"]) == (200, "cancelled")
        assert (await rig.fetch(f"/answers/{run_id}", "DELETE"))[0] == 204
        for method, path in (
            ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/stream"),
        ):  # fmt: skip
            status, _, problem = await rig.fetch(f"/answers/{run_id}{path}", method)
            assert (status, problem["status"]) == (404, 404), f"{method} {path}"


async def test_a_run_that_failed_says_why():
    async with rigged() as rig:
        run_id = (await rig.ask(body={"text": "fail"}))[2]["id"]
        assert await rig.ended(run_id) == "failed"
        assert (await rig.fetch(f"/answers/{run_id}"))[2]["error"] == "No idea."


async def test_a_stranger_gets_404_everywhere_and_nobody_401():
    """An id is no credential, and says nothing of what there is."""
    async with rigged() as rig:
        run_id = (await rig.ask())[2]["id"]
        for path, method in (
            ("", "GET"), ("", "DELETE"), ("/cancel", "POST"), ("/stream", "GET"),
        ):  # fmt: skip
            for each in (run_id, "unknown", "%00", "a" * 300):
                status, _, problem = await rig.fetch(f"/answers/{each}{path}", method, "bob")
                assert status == 404 and problem["status"] == 404, (path, each)
            assert (await rig.fetch(f"/plain/{run_id}{path}", method))[0] == 404, "another kind"
            assert (await rig.fetch(f"/answers/{run_id}{path}", method, ""))[0] == 401
            assert (await rig.fetch(f"/answers/{run_id}{path}", method, "eve"))[0] == 403
        assert await rig.state(run_id) == "running"
        assert (await rig.fetch("/answers", user="bob"))[2]["runs"] == []
        status, _, _ = await rig.fetch("/answers", "POST", "", b"no json")
        assert status == 401, "before the body is read"
        rig.go.set()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_right_that_is_lost_ends_the_stream(method: str):
    """A user who was signed out sees no further word."""
    async with rigged() as rig:
        body = json.dumps({"text": "secret"}).encode()
        path = "/answers"
        if method == "GET":
            path = f"/answers/{(await rig.ask(body={'text': 'secret'}))[2]['id']}/stream"
            body = b""
        async with rig.open(path, method, body=body, Accept="text/event-stream") as stream:
            await stream.until(b"Well")
            (info,) = rig.live.streams()
            assert (info.client, info.address) == ("127.0.0.1", f"/api{path}")
            rig.allowed.discard("ann")
            await rig.live.recheck("user:ann")
            rest = await stream.rest()
            assert told(rest)[-1][0] == "error" and told(rest)[-1][1]["status"] == 403
            assert b"secret" not in stream.raw
        rig.go.set()


async def test_a_list_is_a_keyed_feed():
    """A page of my runs shows each as it becomes, by state and by group."""
    async with rigged() as rig:
        ids = [
            (await rig.ask(body={"text": "x", "conversation": f"c{n}"}))[2]["id"] for n in (1, 2)
        ]
        page = (await rig.fetch("/answers"))[2]
        assert [(run["id"], run["state"], run["group"]) for run in page["runs"]] == [
            (ids[0], "running", "c1"), (ids[1], "running", "c2"),
        ]  # fmt: skip
        assert [r["id"] for r in (await rig.fetch("/answers?group=c2"))[2]["runs"]] == ids[1:]
        assert (await rig.fetch("/answers?state=done"))[2]["runs"] == []
        status, _, problem = await rig.fetch("/answers?state=odd")
        assert status == 422 and "state" in problem["detail"]
        async with (
            rig.open("/answers/stream") as mine,
            rig.open("/answers/stream?state=running") as running,
            rig.open("/answers/stream", user="bob") as others,
        ):
            for each in (mine, running, others):
                assert (await each.next()).event == "snapshot"
            rig.go.set()
            for run_id in ids:
                await rig.ended(run_id)
            seen = told([await mine.next(), await mine.next()])
            assert {(name, run["id"], run["state"]) for name, run in seen} == {
                ("run", run_id, "done") for run_id in ids
            }
            left = told([await running.next(), await running.next()])
            assert {(name, run["id"]) for name, run in left} == {
                ("run_removed", run_id) for run_id in ids
            }
            assert (await rig.fetch(f"/answers/{ids[0]}", "DELETE"))[0] == 204
            assert told([await mine.next()]) == [("run_removed", {"id": ids[0]})]
            assert b'"c1"' not in others.raw
        assert [r["id"] for r in (await rig.fetch("/answers"))[2]["runs"]] == ids[1:]


async def test_no_run_begins_for_a_stream_that_has_no_place():
    """Its client would not know of the run, and would start another one."""
    live = LiveRouter(limits=StreamLimits(per_caller=1))
    rig = Rig(live, Runs(MemoryLog()))
    app = Application(live, prefix="/api")

    def user(request: Request) -> str:
        identify(request, "user:ann")
        return "ann"

    @live.run("/answers", rig.runs, owner=user)
    async def answers(run: Run) -> None:
        rig.begun.append(run.id)
        await rig.go.wait()

    async with serving(app, http=DIRECT) as rig.port:
        streams = {"Accept": "text/event-stream"}
        async with rig.open("/answers", "POST", **streams) as first:
            await first.next()
            status, headers, problem = await rig.ask(**streams)
            assert (status, problem["status"]) == (429, 429) and headers["retry-after"]
            assert "has 1 open streams" in problem["detail"]
            assert (await rig.ask())[0] == 202, "without a stream it begins"
            await until(lambda: len(rig.begun) == 2)
            rig.go.set()
            await first.rest()
        await until(lambda: live.stats.open == 0)
        async with rig.open("/answers", "POST", **streams) as again:
            assert again.status == 200, "the place was given back"
            await again.rest()
        assert len((await rig.fetch("/answers"))[2]["runs"]) == len(rig.begun) == 3


async def test_positions_of_others_are_reset():
    """A client that brings an odd position gets the run from its start, and is told so."""
    async with rigged() as rig:
        rig.go.set()
        first, second = [(await rig.ask(body={"text": t}))[2]["id"] for t in ("one", "two")]
        await rig.ended(first)
        await rig.ended(second)
        async with rig.open(f"/answers/{first}/stream") as stream:
            last = (await stream.rest())[-1].last_event_id
        for odd in (last, "nonsense", "1." + "a" * 500):
            async with rig.open(f"/answers/{second}/stream", **{"Last-Event-ID": odd}) as stream:
                events = told(await stream.rest())
            assert events[0] == ("reset", {"reason": "unknown"})
            assert [name for name, _ in events[1:]] == ["run", "delta", "sources", "end"]
            assert events[2][1] == {"text": "Well, two"}


async def test_the_output_so_far_as_one_text():
    """A client that shows the text alone needs no history of it."""
    async with rigged() as rig:
        run_id = (await rig.ask(body={"text": "x"}))[2]["id"]
        await until(lambda: rig.begun)
        async with rig.open(f"/answers/{run_id}/stream?fold=true") as stream:
            await stream.next()
            assert told([await stream.next()]) == [("delta", {"text": "Well, "})]
            assert (await rig.fetch(f"/answers/{run_id}?fold=true"))[2]["text"] == "Well, "
            rig.go.set()
            names = [name for name, _ in told(await stream.rest())]
            assert names == ["delta", "sources", "end"], "what is new comes as it is made"
        async with rig.open(f"/answers/{run_id}/stream?fold=true") as stream:
            assert told(await stream.rest())[1:] == [
                ("delta", {"text": "Well, x"}), ("end", {"state": "done"}),
            ]  # fmt: skip
        assert (await rig.fetch(f"/answers/{run_id}?fold=true"))[2]["text"] == "Well, x"
        assert "text" not in (await rig.fetch(f"/answers/{run_id}"))[2]
        async with rig.runs.attempt((await rig.ask("/exports"))[2]["id"]) as producer:
            await producer.send("progress", 1)
        async with rig.open(f"/exports/{producer.id}/stream?fold=true") as stream:
            names = [name for name, _ in told(await stream.rest())]
            assert names == ["run", "end"], "no text is no delta"


async def test_bodies_that_cannot_be():
    """Each is refused with a sentence, and no run begins."""
    async with rigged(max_body=1000) as rig:
        for body, wanted in (
            (b"x" * 2000, 413),
            (b"{", 422),
            (b"[]", 422),
            (json.dumps({"text": 7}).encode(), 422),
            # The model ignores it, and the log could not store it.
            (b'{"odd": 1e400}', 422),
            (b'{"odd": NaN}', 422),
            (b'{"odd": "\\ud800"}', 422),
            (b'{"odd": ' + b"[" * 200 + b"]" * 200 + b"}", 422),
        ):
            status, _, problem = await rig.fetch("/answers", "POST", body=body)
            assert (status, problem["status"]) == (wanted, wanted), body[:10]
        status, _, problem = await rig.fetch("/answers?more=x", "POST", body=b"{}")
        assert status == 422 and "more" in problem["detail"]
        accept = {"Accept": "application/json"}
        run_id = (await rig.ask())[2]["id"]
        assert (await rig.fetch(f"/answers/{run_id}/stream", **accept))[0] == 406
        assert len((await rig.fetch("/answers"))[2]["runs"]) == 1
        rig.go.set()


async def test_a_queue_gets_the_id_and_its_worker_the_input():
    async with rigged() as rig:
        status, _, run = await rig.ask("/exports", {"text": "users"})
        assert (status, run["state"]) == (202, "queued")
        other = (await rig.ask("/exports", {"text": ""}))[2]["id"]
        assert rig.handed == [run["id"], other]
        async with rig.open(f"/exports/{run['id']}/stream") as stream:
            assert told([await stream.next()]) == [("run", run)]
            async with rig.runs.attempt(run["id"]) as producer:
                assert producer.input == {"table": "users"}
                await producer.send("progress", 1)
            events = told(await stream.rest())
            assert [name for name, _ in events] == ["run", "progress", "end"]
            assert events[0][1] == {**run, "state": "running", "attempt": 1}, "as `GET` gives it"
        async with rig.runs.attempt(other) as producer:
            assert producer.input == {"text": ""}, "the body, where the function returns None"


async def test_a_server_that_is_stopped_says_what_becomes_of_its_runs():
    """Followers in other processes hear of it at once."""
    rig, app = made()
    async with Runs(rig.runs.log, lease=60.0) as other:
        async with stoppable(app) as (rig.port, stop):
            run_id = (await rig.ask())[2]["id"]
            await until(lambda: rig.begun)
            await rig.live.drain(spread=0.0)
            assert (await rig.ask())[0] == 503
            async with asyncio.timeout(10):
                events = [event async for event in other.follow(run_id)]
            assert events[-1].data == {"state": "lost"}
            stop()
        assert "stopped" in ((await other.state(run_id)).error or "")


def test_declarations_that_cannot_work():
    """Each says what would."""
    live, runs = LiveRouter(), Runs(MemoryLog(), keep=timedelta(hours=1))

    def owner() -> str:
        return "me"

    async def good(run: Run) -> None: ...
    def bad(run: Run) -> None: ...
    async def bad_too(run: SyncRun) -> None: ...
    async def none() -> None: ...

    for path, given, options, call, words in (
        ("answers", runs, {}, good, "such as '/logs'"),
        ("/a", MemoryLog(), {}, good, "Runs"),
        ("/a", runs, {"busy": "odd"}, good, "busy"),
        ("/a", runs, {"on_disconnect": True}, good, "on_disconnect"),
        ("/a", runs, {"owner": "me"}, good, "owner"),
        ("/a", runs, {}, bad, "SyncRun"),
        ("/a", runs, {}, bad_too, "run: Run"),
        ("/a", runs, {}, none, "run: Run"),
        ("/a", runs, {"start": print}, good, "attempt"),
    ):
        with pytest.raises(DeclarationError, match=words):
            live.run(path, given, **{"owner": owner, **options})(call)


async def test_runs_belong_to_the_values_of_their_path():
    """A guard asks for the right to a room: it must not lead to what another room answered."""
    live, runs = LiveRouter(), Runs(MemoryLog())
    app = Application(live, prefix="/teams/{team}")

    @live.run("/rooms/{room:int}/answers", runs, owner=lambda: "ann")
    async def answer(run: Run, room: int) -> int:
        return room

    async with serving(app) as port:
        seven, eight, other = (
            f"/teams/{name}/answers" for name in ("a/rooms/7", "a/rooms/8", "b/rooms/7")
        )

        async def ask(path: str) -> str:
            async with request(port, path, method="POST", headers={"Idempotency-Key": "k"}) as sent:
                return str(json.loads(await sent.body())["id"])

        async def get(path: str) -> tuple[int, Any]:
            async with request(port, path) as sent:
                return sent.status, json.loads(await sent.body())

        ids = [await ask(path) for path in (seven, eight, other)]
        assert len(set(ids)) == 3 and await ask(seven) == ids[0]
        for path, run_id in zip((seven, eight, other), ids, strict=True):
            assert [run["id"] for run in (await get(path))[1]["runs"]] == [run_id]
            for each in ids:
                assert (await get(f"{path}/{each}"))[0] == (200 if each == run_id else 404)
        assert (await runs.state(ids[1])).kind == "/rooms/8/answers?team=a"


def test_two_functions_do_not_share_runs():
    """Versions of an API, with a router each: a key of one must not give a run of the other."""
    runs = Runs(MemoryLog())

    async def first(run: Run) -> None: ...
    async def second(run: Run) -> None: ...

    for _ in range(2):  # as an application that is made twice
        LiveRouter().run("/answers", runs, owner=lambda: "me")(first)
    with pytest.raises(DeclarationError, match=r"first and .*second would share.*name="):
        LiveRouter().run("/answers", runs, owner=lambda: "me")(second)
    LiveRouter().run("/answers", runs, owner=lambda: "me", name="v2")(second)


def test_openapi_describes_the_routes():
    _, app = made()
    paths = app.openapi()["paths"]
    assert set(paths) >= {
        "/api/answers", "/api/answers/stream", "/api/answers/{run_id}",
        "/api/answers/{run_id}/stream", "/api/answers/{run_id}/cancel",
    }  # fmt: skip
    start = paths["/api/answers"]["post"]
    assert {"202", "409", "413", "422", "503"} <= set(start["responses"])
    assert start["requestBody"]
    assert {one["name"] for one in start["parameters"]} == {"Idempotency-Key", "more"}
    stream = paths["/api/answers/{run_id}/stream"]["get"]
    assert "text/event-stream" in stream["responses"]["200"]["content"]
    assert {"204", "404", "406"} <= set(stream["responses"])
    assert not breaches(app), "a page and a stream of one thing take the same parameters"
    one = paths["/api/answers/{run_id}"]
    assert set(one) == {"get", "delete"} and "204" in one["delete"]["responses"]
