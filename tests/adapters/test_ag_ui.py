"""Runs in AG-UI's own client, cut after each frame."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ag_ui.core import RunAgentInput
from fastapi import Response
from pydantic_ai import Agent
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.ui.ag_ui import AGUIAdapter

from headwater.adapters import ag_ui
from headwater.errors import RunFailed
from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs
from headwater.web.fastapi import EventStream, LiveRouter
from support import npm
from support.application import Application
from support.cutting import Cutter
from support.http import request
from support.server import serving

pytestmark = pytest.mark.long

FOLDER = Path(__file__).with_name("npm")


async def text(run: Run) -> dict[str, Any]:
    """Text as most people send it, and an event of their own."""
    for word in ("Hello ", "wide ", "world."):
        await run.delta(word)
        await run.flush()
    await run.send("progress", {"percent": 50})
    await run.delta(" And more.")
    return {"words": 5}


EVENTS = [
    {"type": "RUN_STARTED", "threadId": "other", "runId": "other"},
    {"type": "REASONING_START", "messageId": "p"},
    {"type": "REASONING_MESSAGE_START", "messageId": "p", "role": "reasoning"},
    {"type": "REASONING_MESSAGE_CONTENT", "messageId": "p", "delta": "I "},
    {"type": "REASONING_MESSAGE_CONTENT", "messageId": "p", "delta": "think."},
    {"type": "REASONING_MESSAGE_END", "messageId": "p"},
    {"type": "REASONING_END", "messageId": "p"},
    {"type": "STEP_STARTED", "stepName": "look"},
    {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "clock"},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": '{"zone":'},
    {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": '"utc"}'},
    {"type": "TOOL_CALL_END", "toolCallId": "c"},
    {"type": "TOOL_CALL_RESULT", "messageId": "r", "toolCallId": "c", "content": "12:00"},
    {"type": "STEP_FINISHED", "stepName": "look"},
    {"type": "TEXT_MESSAGE_START", "messageId": "t", "role": "assistant"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "t", "delta": "It is "},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "t", "delta": "noon."},
    {"type": "TEXT_MESSAGE_END", "messageId": "t"},
    {"type": "RUN_FINISHED", "threadId": "other", "runId": "other", "result": "ok"},
]


async def events(run: Run) -> None:
    async def produced() -> AsyncIterator[dict[str, Any]]:
        for event in EVENTS:
            yield dict(event)

    await ag_ui.send(run, produced())


async def failed(run: Run) -> None:
    await run.delta("Half an ans")
    raise RunFailed("The model is overloaded.")


async def cancelled(run: Run) -> None:
    """In the middle of a tool call: the client refuses the end of a run with open parts."""

    async def produced() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "STEP_STARTED", "stepName": "look"}
        yield {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "clock"}
        await RUNS[-1].cancel(run.id)
        await asyncio.Event().wait()

    await ag_ui.send(run, produced())


async def waits(run: Run) -> None:
    await run.delta("Half an ans")
    await asyncio.Event().wait()


ANSWERS = {"text": text, "events": events, "failed": failed, "cancelled": cancelled, "waits": waits}
RUNS: list[Runs] = []


def application(runs: Runs) -> Application:
    live = LiveRouter()

    @live.post("/agent", sse=ag_ui.STREAM)
    async def ask(stream: EventStream, asked: RunAgentInput) -> None:
        question = asked.messages[-1].content
        given = asked.model_dump(mode="json", by_alias=True, exclude_none=True)
        created = await runs.create(
            "agent", "me", input=given, group=asked.thread_id, handler=ANSWERS[question]
        )
        await ag_ui.respond(stream, runs, created.state.id, asked)

    @live.post("/agent/connect", sse=ag_ui.STREAM)
    async def connect(stream: EventStream, asked: RunAgentInput) -> Response:
        run = await runs.latest("agent", "me", asked.thread_id)
        return await ag_ui.resume(stream, runs, run, asked)

    @live.post("/half", sse=True)
    async def half(stream: EventStream, asked: RunAgentInput) -> None:
        """What a proxy makes of a stream that it gives up in good order."""
        names = {"threadId": asked.thread_id, "runId": asked.run_id}
        await stream.send({"type": "RUN_STARTED", **names})

    app = Application(live)
    app.state.live = live
    return app


def cut_of(scope: Any, _body: bytes) -> int | None:
    cut = dict(scope["headers"]).get(b"x-cut")
    return None if cut is None else int(cut)


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Runs, Application, int]]:
    async with MemoryLog() as log, Runs(log) as runs:
        RUNS.append(runs)
        app = application(runs)
        # uvicorn logs each cut.
        async with serving(Cutter(app, cut_of), log_level="critical") as port:
            yield runs, app, port


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """The client, and our part of it beside it as in an application."""
    npm.installed(FOLDER)
    shutil.copy(npm.FOLDER / "ag-ui.js", FOLDER / "ag-ui.js")


async def play(port: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each case shows: ``first`` after the question, ``resumed`` after a resumption."""
    done = await asyncio.to_thread(
        npm.run,
        *("node", "ag_ui.mjs", f"http://127.0.0.1:{port}", json.dumps(cases)),
        folder=FOLDER,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def asking(port: int, ask: str, path: str = "/agent") -> Any:
    """The request that the client sends, and the bytes of its answer."""
    message = {"id": "q", "role": "user", "content": ask}
    body = {"threadId": "c", "runId": "r", "messages": [message]}
    return request(
        port,
        path,
        method="POST",
        headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
        body=json.dumps(body).encode(),
    )


async def frames_of(port: int, ask: str) -> int:
    async with asking(port, ask) as answer:
        return len(await answer.rest())


async def test_a_run_that_is_cut_after_any_frame_is_an_error_until_it_is_resumed() -> None:
    """Never is half of an answer shown as the answer."""
    async with running() as (_, _, port):
        cases = [
            {"name": f"{ask}-{cut}", "ask": ask, "cut": cut}
            for ask in ("text", "events")
            for cut in range(await frames_of(port, ask))
        ]
        whole = [{"name": ask, "ask": ask} for ask in ("text", "events")]
        results = await play(port, cases + whole)
    wholes = {result["name"]: result["first"] for result in results[len(cases) :]}
    for name in ("text", "events"):
        assert (wholes[name]["outcome"], wholes[name]["error"]) == ("success", None)
    assert wholes["text"]["said"] == [
        {"role": "assistant", "content": "Hello wide world. And more.", "calls": []}
    ]
    assert wholes["text"]["custom"] == [["progress", {"percent": 50}]]
    assert [one["content"] for one in wholes["events"]["said"]] == [
        "I think.", None, "12:00", "It is noon.",
    ]  # fmt: skip
    assert wholes["events"]["said"][1]["calls"] == [["clock", '{"zone":"utc"}']]
    for case, result in zip(cases, results, strict=False):
        assert result["first"]["error"], result
        resumed = result["resumed"]
        assert (resumed["outcome"], resumed["error"]) == ("success", None), result
        assert resumed["said"] == wholes[case["ask"]]["said"], result


async def test_how_a_run_ended_is_shown() -> None:
    async with running() as (_, _, port):
        cases = [
            {"name": ask, "ask": ask, "plain": True} for ask in ("text", "failed", "cancelled")
        ]
        cases.append({"name": "half", "ask": "text", "path": "/half"})
        results = [result["first"] for result in await play(port, cases)]
    assert [(result["outcome"], result["error"]) for result in results] == [
        ("success", None),
        (None, "failed: The model is overloaded."),
        ("cancelled", None),
        (None, "the connection ended before the run did"),
    ]


async def test_nothing_is_resumed_where_nothing_is_active() -> None:
    async with running() as (_, _, port), asking(port, "", "/agent/connect") as answer:
        assert answer.status == 204


async def test_a_server_that_shuts_down_says_that_the_run_is_not_complete() -> None:
    async with running() as (_, app, port), asking(port, "waits") as answer:
        await answer.until(b"TEXT_MESSAGE_CONTENT")
        await app.state.live.drain(spread=0.1)
        *_, last = await answer.rest()
        assert json.loads(last.data)["type"] == "RUN_ERROR"


async def test_a_dead_producer_is_an_error_for_the_client() -> None:
    async with running() as (runs, _, port), asking(port, "waits") as answer:
        await answer.until(b"TEXT_MESSAGE_CONTENT")
        await runs.stop()
        frames = [json.loads(each.data) for each in await answer.rest()]
    assert frames[-2]["type"] == "TEXT_MESSAGE_END"
    assert (frames[-1]["type"], frames[-1]["code"]) == ("RUN_ERROR", "lost")


async def test_pydantic_ai_goes_into_a_run_by_one_call() -> None:
    agent = Agent(TestModel(custom_output_text="It is noon in London."))

    @agent.tool_plain
    def clock(zone: str) -> str:
        return f"12:00 {zone}"

    async def answer(run: Run) -> None:
        asked = RunAgentInput(
            thread_id="t", run_id="r", messages=[{"id": "q", "role": "user", "content": "Late?"}]
        )
        adapter = AGUIAdapter(agent=agent, run_input=asked)
        await ag_ui.send(run, adapter.run_stream())

    ANSWERS["agent"] = answer
    async with running() as (runs, app, port):
        (result,) = await play(port, [{"name": "agent", "ask": "agent"}])
        run = await runs.latest("agent", "me", "agent")
        assert run is not None
        deltas = [
            event.data["text"] async for event in runs.follow(run.id) if event.name == "delta"
        ]
    assert "".join(deltas) == "It is noon in London.", "clients of no SDK have the text too"
    assert [one["content"] for one in result["first"]["said"]][1:] == [
        "12:00 a",
        "It is noon in London.",
    ]
    assert result["first"]["outcome"] == "success"
    assert result["resumed"]["said"] == result["first"]["said"]


async def test_an_error_of_pydantic_ai_fails_the_run() -> None:
    async def breaks(_messages: Any, _info: Any) -> AsyncIterator[str]:
        yield "Half an ans"
        raise RuntimeError("no such model")

    async with MemoryLog() as log, Runs(log) as runs:

        async def answer(run: Run) -> None:
            asked = RunAgentInput(
                thread_id="t", run_id="r", messages=[{"id": "q", "role": "user", "content": "hi"}]
            )
            agent = Agent(FunctionModel(stream_function=breaks))
            await ag_ui.send(run, AGUIAdapter(agent=agent, run_input=asked).run_stream())

        run_id = (await runs.create("agent", "me", handler=answer)).state.id
        async for _ in runs.follow(run_id):
            pass
        state = await runs.state(run_id)
    assert state is not None
    assert (state.state, state.error) == ("failed", "no such model")
