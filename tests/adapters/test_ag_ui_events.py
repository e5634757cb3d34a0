"""Events of AG-UI that producers send more rarely, as the followers of a run get them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from ag_ui.core import RunAgentInput

from headwater.adapters import ag_ui
from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs
from headwater.web.fastapi import EventStream, LiveRouter
from support.application import Application
from support.http import request
from support.server import serving

NAMES = {"threadId": "c", "runId": "r"}


async def played(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """What a client of AG-UI gets of a run with these events, and its text for all others."""
    live = LiveRouter()

    async def produced() -> AsyncIterator[dict[str, Any]]:
        for event in events:
            yield event

    async def work(run: Run) -> None:
        await ag_ui.send(run, produced())

    async with Runs(MemoryLog()) as runs:
        run_id = (await runs.create("agent", "me", handler=work)).state.id
        past = [one async for one in runs.follow(run_id)]

        @live.post("/agent", sse=ag_ui.STREAM)
        async def ask(stream: EventStream, asked: RunAgentInput) -> None:
            await ag_ui.respond(stream, runs, run_id, asked)

        body = json.dumps({**NAMES, "messages": []}).encode()
        headers = {"Content-Type": "application/json"}
        async with (
            serving(Application(live)) as port,
            request(port, "/agent", method="POST", headers=headers, body=body) as answer,
        ):
            frames = [json.loads(each.data) for each in await answer.rest()]
    return frames, "".join(one.data["text"] for one in past if one.name == "delta")


async def test_an_interrupt_reaches_the_client() -> None:
    """An agent asks for an approval. Without the outcome the client takes the run for finished."""
    outcome = {"type": "interrupt", "interrupts": [{"id": "i", "reason": "approval"}]}
    usage = [{"model": "m", "inputTokens": 7}]
    finished = {"type": "RUN_FINISHED", "threadId": "x", "runId": "y"}
    frames, _ = await played([{**finished, "outcome": outcome, "usage": usage}])
    assert frames[-1] == {"type": "RUN_FINISHED", **NAMES, "outcome": outcome, "usage": usage}
    frames, _ = await played([{**finished, "outcome": outcome}, {**finished, "result": 7}])
    assert frames[-1] == {"type": "RUN_FINISHED", **NAMES, "result": 7}, "the last one counts"


async def test_text_in_chunks_is_the_text_of_a_message() -> None:
    """A chunk stands for a start, a content and an end. All clients of the run have its text."""
    chunk, raw = "TEXT_MESSAGE_CHUNK", {"type": "RAW", "event": 1}
    frames, text = await played(
        [
            {"type": chunk, "messageId": "a", "name": "Ann", "delta": "It "},
            {"type": chunk, "delta": "is "},
            raw,
            {"type": chunk, "messageId": "a", "delta": "noon."},
            {"type": chunk, "messageId": "b", "role": "developer", "delta": " Yes."},
            {"type": "STEP_STARTED", "stepName": "s"},
            {"type": chunk, "messageId": "d"},
        ]
    )
    assert text == "It is noon. Yes."
    contents = [frame.pop("delta") for frame in frames if "delta" in frame]
    assert "".join(contents) == text
    kinds = [
        (frame["type"].removeprefix("TEXT_MESSAGE_"), frame.get("messageId")) for frame in frames
    ]
    assert [kind for kind in kinds if kind[0] != "CONTENT"] == [
        ("RUN_STARTED", None),
        ("START", "a"),
        ("RAW", None),
        ("END", "a"),
        ("START", "b"),
        ("END", "b"),
        ("STEP_STARTED", None),
        ("START", "d"),
        ("END", "d"),
        ("STEP_FINISHED", None),
        ("RUN_FINISHED", None),
    ]
    assert (frames[1]["role"], frames[1]["name"]) == ("assistant", "Ann")
    assert {"type": "TEXT_MESSAGE_START", "messageId": "b", "role": "developer"} in frames


async def test_chunks_of_tool_calls_are_joined() -> None:
    """Not each token of an argument costs an append to the log."""
    chunk = {"type": "TOOL_CALL_CHUNK", "toolCallId": "t", "toolCallName": "clock"}
    frames, _ = await played([chunk, *({**chunk, "delta": str(n)} for n in range(10))])
    assert frames[1:-1] == [chunk, {**chunk, "delta": "0123456789"}]
