"""``followRun`` of the browser client on real runs, cut after each frame."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from headwater.client import follow_run, sync
from headwater.errors import ResponseError
from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs
from headwater.web.fastapi import LiveRouter
from support import npm
from support.application import Application
from support.cutting import Cutter
from support.server import serving

pytestmark = pytest.mark.long

TEXT = "Hello wide world. Grüße!"


class Question(BaseModel):
    text: str


def application(runs: Runs) -> FastAPI:
    live = LiveRouter()

    @live.run("/answers", runs, owner=lambda: "me")
    async def answer(run: Run, question: Question) -> dict[str, Any]:
        for word in TEXT.split(" "):
            await run.delta(word if word == TEXT.split(" ")[0] else f" {word}")
            await run.flush()
            await run.send("progress", {"word": word})
        if question.text == "fail":
            raise ZeroDivisionError
        return {"words": 4}

    return Application(live)


@asynccontextmanager
async def running() -> AsyncIterator[str]:
    """An application in which ``?cut=N`` ends a stream's first connection after N frames."""
    cut: set[str] = set()

    def limit(scope: Any, _body: bytes) -> int | None:
        query = scope["query_string"].decode()
        first = query.partition("&")[0]
        if not scope["path"].endswith("/stream") or not first.startswith("cut=") or first in cut:
            return None
        cut.add(first)
        return int(first.removeprefix("cut="))

    async with MemoryLog() as log, Runs(log) as runs:
        app = Cutter(application(runs), limit)
        async with serving(app, log_level="critical") as port:  # it logs each cut
            yield f"http://127.0.0.1:{port}"


async def started(http: httpx.AsyncClient, address: str, text: str) -> str:
    answer = await http.post(f"{address}/answers", json={"text": text})
    assert answer.status_code == 202, answer.text
    return str(httpx.URL(address).join(answer.headers["location"]))


async def test_a_run_is_whole_whatever_frame_its_connection_is_cut_after() -> None:
    package = await asyncio.to_thread(npm.installed)
    async with running() as address, httpx.AsyncClient() as http:
        run = await started(http, address, "hello")
        failed = await started(http, address, "fail")
        whole = (await http.get(f"{run}/stream", headers={"Accept": "text/event-stream"})).text
        frames = whole.count("\n\n")
        urls = [f"{run}?cut={cut}" for cut in range(frames + 1)]
        script = Path(__file__).with_name("follow_runs.mjs")
        done = await asyncio.to_thread(
            npm.run,
            *("node", str(script), str(package / "headwater.js")),
            json.dumps([*urls, run, failed, f"{address}/answers/unknown"]),
        )
    assert done.returncode == 0, done.stderr[-3000:]
    *cut, whole_run, failed_run, unknown = json.loads(done.stdout)
    for result in (*cut, whole_run):
        assert (result["text"], result["state"], result["grows"]) == (TEXT, "done", True), result
        assert result["result"] == {"words": 4}
        progress = [data["word"] for name, data in result["events"] if name == "progress"]
        assert progress == TEXT.split(" "), "each event once"
    assert (failed_run["state"], failed_run["error"]) == (
        "failed",
        "the run failed: ZeroDivisionError",
    )
    assert unknown["refused"] == 404


async def test_python_has_each_event_once_whatever_frame_its_connection_is_cut_after() -> None:
    async with running() as address, httpx.AsyncClient() as http:
        run = await started(http, address, "hello")
        whole = (await http.get(f"{run}/stream", headers={"Accept": "text/event-stream"})).text
        frames = whole.count("\n\n")
        results = await asyncio.gather(
            *(followed(f"{run}?cut={cut}") for cut in range(frames + 1)), followed(run)
        )
    words = [("progress", word) for word in TEXT.split(" ")]
    for text, events, state in results:
        assert (text, state) == (TEXT, "done")
        assert [event for event in events if event[0] == "progress"] == words
        assert [name for name, _ in events].count("end") == 1


async def followed(url: str) -> tuple[str, list[tuple[str, Any]], str | None]:
    text, events = "", []
    async with follow_run(url, retry=0.01, random=lambda: 0.0) as run:
        async for event in run:
            if event.name == "delta":
                text += event.data["text"]
            else:
                events.append((event.name, event.data.get("word")))
    return text, events, run.state


async def test_python_without_asyncio_follows_a_run_too() -> None:
    def follow() -> tuple[str, str | None, str]:
        with sync.follow_run(f"{run}/stream") as stream:
            text = "".join(event.data["text"] for event in stream if event.name == "delta")
        return text, stream.state, stream.last_event_id

    def follow_again() -> list[Any]:
        with sync.follow_run(run, last_event_id=position) as stream:
            return list(stream)

    async with running() as address, httpx.AsyncClient() as http:
        run = await started(http, address, "fail")
        text, state, position = await asyncio.to_thread(follow)
        assert (text, state) == (TEXT, "failed")
        assert await asyncio.to_thread(follow_again) == [], "the end was had before"


async def test_python_shows_a_refusal() -> None:
    async with running() as address:
        with pytest.raises(ResponseError, match="404"):
            async for _ in follow_run(f"{address}/answers/unknown"):
                pass


@pytest.mark.parametrize("part", ["followRun", "FollowedRun"])
def test_its_names_are_typed(part: str) -> None:
    assert part in (npm.FOLDER / "headwater.d.ts").read_text()
