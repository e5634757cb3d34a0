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

from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs
from headwater.web.fastapi import LiveRouter
from support import npm
from support.application import Application
from support.cutting import Cutter
from support.server import serving

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


@pytest.mark.parametrize("part", ["followRun", "FollowedRun"])
def test_its_names_are_typed(part: str) -> None:
    assert part in (npm.FOLDER / "headwater.d.ts").read_text()
