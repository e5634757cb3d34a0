"""Runs in ``useChat``: the classes of npm's ``ai`` 6 and 7, cut after each frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import Response
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.ui.vercel_ai import VercelAIAdapter

from headwater.adapters import ai_sdk
from headwater.errors import RunFailed, UsageError
from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs
from headwater.web.fastapi import EventStream, LiveRouter
from support import npm
from support.application import Application
from support.cutting import Cutter
from support.http import Answer, request
from support.server import serving

pytestmark = pytest.mark.long

FOLDER = Path(__file__).with_name("npm")


class Chat(BaseModel):
    """The body that the SDK sends."""

    id: str
    messages: list[dict[str, Any]]

    @property
    def question(self) -> str:
        return str(self.messages[-1]["parts"][0]["text"])


async def text(run: Run) -> None:
    """Text as most people send it, and an event of their own."""
    for word in ("Hello ", "wide ", "world."):
        await run.delta(word)
        await run.flush()
    await run.send("progress", {"percent": 50})
    await run.delta(" And more.")


CHUNKS = [
    {"type": "start", "messageId": "other"},
    {"type": "start-step"},
    {"type": "reasoning-start", "id": "r"},
    {"type": "reasoning-delta", "id": "r", "delta": "I "},
    {"type": "reasoning-delta", "id": "r", "delta": "think."},
    {"type": "reasoning-end", "id": "r"},
    {"type": "tool-input-start", "toolCallId": "c", "toolName": "clock"},
    {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": '{"zone":'},
    {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": '"utc"}'},
    {
        "type": "tool-input-available",
        "toolCallId": "c",
        "toolName": "clock",
        "input": {"zone": "utc"},
    },
    {"type": "tool-output-available", "toolCallId": "c", "output": "12:00"},
    {"type": "text-start", "id": "t"},
    {"type": "text-delta", "id": "t", "delta": "It is "},
    {"type": "text-delta", "id": "t", "delta": "noon."},
    {"type": "text-end", "id": "t"},
    {"type": "finish-step"},
    {"type": "finish", "finishReason": "stop"},
]


async def chunks(run: Run) -> None:
    async def produced() -> AsyncIterator[dict[str, Any]]:
        for chunk in CHUNKS:
            yield dict(chunk)

    await ai_sdk.send(run, produced())


async def failed(run: Run) -> None:
    await run.delta("Half an ans")
    raise RunFailed("The model is overloaded.")


async def cancelled(run: Run) -> None:
    await run.delta("Half an ans")
    await run.flush()
    await RUNS[-1].cancel(run.id)
    await asyncio.Event().wait()


async def waits(run: Run) -> None:
    await run.delta("Half an ans")
    await asyncio.Event().wait()


ANSWERS = {"waits": waits, "text": text, "chunks": chunks, "failed": failed, "cancelled": cancelled}
RUNS: list[Runs] = []


def application(runs: Runs, replay_for: float) -> Application:
    live = LiveRouter()

    @live.post("/chat", sse=ai_sdk.STREAM)
    async def ask(stream: EventStream, chat: Chat) -> None:
        answer = ANSWERS[chat.question]
        created = await runs.create("chat", "me", group=chat.id, handler=answer)
        await ai_sdk.respond(stream, runs, created.state.id)

    @live.get("/chat/{chat_id}/stream", sse=ai_sdk.STREAM)
    async def resume(stream: EventStream, chat_id: str) -> Response:
        run = await runs.latest("chat", "me", chat_id)
        return await ai_sdk.resume(stream, runs, run, replay_for=replay_for)

    app = Application(live)
    app.state.live = live
    return app


def cut_of(scope: Any, _body: bytes) -> int | None:
    cut = dict(scope["headers"]).get(b"x-cut")
    return None if cut is None else int(cut)


@asynccontextmanager
async def running(replay_for: float = 30.0) -> AsyncIterator[tuple[Runs, Application, int]]:
    async with MemoryLog() as log, Runs(log) as runs:
        RUNS.append(runs)
        app = application(runs, replay_for)
        # uvicorn logs each cut.
        async with serving(Cutter(app, cut_of), log_level="critical") as port:
            yield runs, app, port


async def play(port: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each case shows: ``first`` after the question, ``resumed`` after a resumption."""
    done = await asyncio.to_thread(
        npm.run,
        *("node", "ai_sdk.mjs", f"http://127.0.0.1:{port}", json.dumps(cases)),
        folder=FOLDER,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    npm.installed(FOLDER)


def asking(port: int, ask: str, chat: str = "c") -> AbstractAsyncContextManager[Answer]:
    """The request that the SDK sends, and the bytes of its answer."""
    body = {"id": chat, "messages": [{"parts": [{"type": "text", "text": ask}]}]}
    return request(
        port,
        "/chat",
        method="POST",
        headers={"Content-Type": "application/json"},
        body=json.dumps(body).encode(),
    )


async def frames_of(port: int, ask: str) -> int:
    async with asking(port, ask) as answer:
        return len(await answer.rest())


async def test_an_answer_that_is_cut_after_any_frame_is_an_error_until_it_is_resumed() -> None:
    """Never is half of an answer shown as the answer."""
    async with running() as (_, _, port):
        cases = [
            {"name": f"{ask}-{version}-{cut}", "version": version, "ask": ask, "cut": cut}
            for ask in ("text", "chunks")
            for version in (6, 7)
            for cut in range(await frames_of(port, ask))
        ]
        whole = [
            {"name": f"whole-{ask}-{version}", "version": version, "ask": ask}
            for ask in ("text", "chunks")
            for version in (6, 7)
        ]
        results = await play(port, cases + whole)
    expected = {}
    for result in results[len(cases) :]:
        expected[result["name"].removeprefix("whole-")] = result["first"]["parts"]
        assert result["first"]["status"] == "ready"
        assert result["resumed"] == result["first"], "nothing doubles what is there"
    progress = {"type": "data-progress", "data": {"percent": 50}, "transient": True}
    assert progress in results[len(cases)]["data"], "an event of one's own is a transient part"
    assert [part["text"] for part in expected["text-7"]] == ["Hello wide world. And more."]
    assert [part["type"] for part in expected["chunks-7"]] == ["reasoning", "tool-clock", "text"]
    assert expected["chunks-7"][1]["output"] == "12:00"
    for case, result in zip(cases, results, strict=False):
        first, resumed = result["first"], result["resumed"]
        parts = expected[f"{case['ask']}-{case['version']}"]
        # The last frame says that nothing follows: all is there without it.
        assert first["status"] == "error" or first["parts"] == parts, result
        assert (resumed["status"], resumed["answers"]) == ("ready", 1), result
        assert resumed["parts"] == parts, result


async def test_how_an_answer_ended_is_shown() -> None:
    async with running() as (_, _, port):
        cases = [
            {"name": f"{ask}-{version}", "version": version, "ask": ask}
            for ask in ("failed", "cancelled")
            for version in (6, 7)
        ]
        results = [result["first"] for result in await play(port, cases)]
    half = {"type": "text", "text": "Half an ans", "state": "done"}
    for result in results:
        assert result["parts"] == [half], "the part is closed, not streaming for ever"
    shown = [(result["status"], result["error"]) for result in results]
    assert shown[:2] == [("error", "The model is overloaded.")] * 2
    assert shown[2:] == [("ready", None)] * 2, "who stopped it needs no error"


async def test_the_headers_that_the_sdk_asks_for() -> None:
    async with running() as (_, _, port), asking(port, "text") as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "no-cache" in answer.headers["cache-control"]
        assert (await answer.rest())[-1].data == "[DONE]"


@pytest.mark.parametrize(("seconds", "status"), [(0.0, 204), (30.0, 200)])
async def test_nothing_is_resumed_some_time_after_the_end(seconds: float, status: int) -> None:
    async with running(replay_for=seconds) as (_, _, port):
        async with request(port, "/chat/never/stream") as answer:
            assert answer.status == 204
        async with asking(port, "text") as answer:
            await answer.rest()
        async with request(port, "/chat/c/stream") as answer:
            assert answer.status == status


async def test_a_server_that_shuts_down_says_that_the_answer_is_not_complete() -> None:
    async with running() as (_, app, port), asking(port, "waits") as answer:
        await answer.until(b"text-delta")
        await app.state.live.drain(spread=0.1)
        *_, last = await answer.rest()
        assert json.loads(last.data)["type"] == "error"
        async with asking(port, "waits") as refused:
            assert refused.status == 503


async def test_a_dead_producer_is_an_error_for_the_client() -> None:
    async with running() as (runs, _, port), asking(port, "waits") as answer:
        await answer.until(b"text-delta")
        await runs.stop()
        frames = [json.loads(each.data) for each in (await answer.rest())[:-1]]
    assert [frame["type"] for frame in frames[-2:]] == ["text-end", "error"]
    assert "died" in frames[-1]["errorText"]


async def test_a_second_attempt_is_shown_alone_and_ends_the_streams_of_the_first() -> None:
    """What was shown of the first attempt is void, and the protocol cannot take it back."""
    async with running() as (runs, app, port):
        run_id = (await runs.create("chat", "me", group="c")).state.id
        async with request(port, "/chat/c/stream") as first:
            with pytest.raises(ZeroDivisionError):
                async with runs.attempt(run_id, retry=True) as run:
                    await run.delta("void")
                    await first.until(b"void")
                    raise ZeroDivisionError
            async with runs.attempt(run_id) as run:
                await run.delta("valid")
            *_, last, _ = [event.data for event in await first.rest()]
        assert "began again" in json.loads(last)["errorText"]
        async with request(port, "/chat/c/stream") as answer:
            events = [event.data for event in await answer.rest()]
    assert not any("void" in data for data in events)
    assert [json.loads(data)["type"] for data in events[:-1]] == [
        "start", "text-start", "text-delta", "text-end", "finish",
    ]  # fmt: skip


async def test_reasoning_of_many_small_chunks_is_stored_in_few() -> None:
    """A model thinks a hundred tokens a second, and an append for each would slow all runs."""
    async with MemoryLog() as log, Runs(log) as runs:

        async def answer(run: Run) -> None:
            async def produced() -> AsyncIterator[dict[str, Any]]:
                yield {"type": "reasoning-start", "id": "r"}
                for n in range(1_000):
                    yield {"type": "reasoning-delta", "id": "r", "delta": f"{n} "}
                yield {"type": "reasoning-end", "id": "r"}

            await ai_sdk.send(run, produced())

        created = await runs.create("chat", "me", handler=answer)
        events = [event async for event in runs.follow(created.state.id)]
    texts = [event.data["delta"] for event in events if "delta" in event.data]
    assert "".join(texts) == "".join(f"{n} " for n in range(1_000))
    assert len(texts) < 50


async def test_a_chunk_without_its_text_is_stored_as_it_is() -> None:
    """It is for the client to judge. The chunks after it are not lost with it."""
    odd = [
        {"type": "reasoning-delta", "id": "r"},
        {"type": "reasoning-delta", "id": "r", "delta": None},
        {"type": "reasoning-delta", "id": "r", "delta": "x"},
    ]

    async def produced() -> AsyncIterator[dict[str, Any]]:
        for chunk in odd:
            yield chunk

    async with MemoryLog() as log, Runs(log) as runs:
        created = await runs.create("chat", "me")
        async with runs.attempt(created.state.id) as run:
            await ai_sdk.send(run, produced())
        events = [event async for event in runs.follow(created.state.id)]
    assert [event.data for event in events if event.name == ai_sdk.CHUNK] == odd


@pytest.mark.parametrize("bad", ["text", {"kind": "text"}, {"type": 7}])
async def test_what_is_no_chunk_is_refused(bad: Any) -> None:
    async def produced() -> AsyncIterator[Any]:
        yield bad

    async with MemoryLog() as log, Runs(log) as runs:
        run_id = (await runs.create("chat", "me")).state.id
        with pytest.raises(UsageError, match="a chunk is an object with a `type`"):
            async with runs.attempt(run_id) as run:
                await ai_sdk.send(run, produced())


def run_input(text: str) -> Any:
    """The SDK's request, as pydantic-ai reads it."""
    message = {"id": "u", "role": "user", "parts": [{"type": "text", "text": text}]}
    asked = {"trigger": "submit-message", "id": "c", "messages": [message]}
    return VercelAIAdapter.build_run_input(json.dumps(asked).encode())


async def test_pydantic_ai_goes_into_a_run_by_one_call() -> None:
    """Its agent thinks, calls a tool and answers; every client shows all of it."""
    agent = Agent(TestModel(custom_output_text="It is noon in London."))

    @agent.tool_plain
    def clock(zone: str) -> str:
        return f"12:00 {zone}"

    async def answer(run: Run) -> None:
        adapter = VercelAIAdapter(agent=agent, run_input=run_input("Late?"), sdk_version=6)
        await ai_sdk.send(run, adapter.run_stream())

    ANSWERS["agent"] = answer
    async with running() as (runs, app, port):
        cases = [{"name": f"agent-{v}", "version": v, "ask": "agent"} for v in (6, 7)]
        results = await play(port, cases)
        run = await runs.latest("chat", "me", "agent-6")
        assert run is not None
        deltas = [
            event.data["text"] async for event in runs.follow(run.id) if event.name == "delta"
        ]
    assert "".join(deltas) == "It is noon in London.", "clients of no SDK have the text too"
    for result in results:
        tool, text = result["first"]["parts"]
        assert (tool["type"], tool["output"]) == ("tool-clock", "12:00 a")
        assert (text["text"], text["state"]) == ("It is noon in London.", "done")
        assert result["first"]["status"] == "ready"
        assert result["resumed"] == result["first"]


async def test_an_error_of_pydantic_ai_fails_the_run() -> None:
    async def breaks(_messages: Any, _info: Any) -> AsyncIterator[str]:
        yield "Half an ans"
        raise RuntimeError("no such model")

    agent = Agent(FunctionModel(stream_function=breaks))

    async with MemoryLog() as log, Runs(log) as runs:

        async def answer(run: Run) -> None:
            adapter = VercelAIAdapter(agent=agent, run_input=run_input("hi"), sdk_version=6)
            await ai_sdk.send(run, adapter.run_stream())

        run_id = (await runs.create("chat", "me", handler=answer)).state.id
        async for _ in runs.follow(run_id):
            pass
        state = await runs.state(run_id)
    assert state is not None
    assert (state.state, state.error) == ("failed", "no such model")
