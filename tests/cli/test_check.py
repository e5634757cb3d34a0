"""``headwater check`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys

APP = """
from fastapi import FastAPI
from headwater.web.fastapi import EventStream, LiveRouter
app = FastAPI()
live = LiveRouter()
app.include_router(live, prefix="/api")

@live.get("/logs/stream", sse=True)
async def stream(stream: EventStream): ...
"""
TWIN = """
@live.get("/logs")
async def rest(): ...
"""


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "headwater", "check", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_passes_and_fails_with_a_line_for_each_breach(tmp_path):
    (tmp_path / "bad.py").write_text(APP)
    (tmp_path / "good.py").write_text(APP + TWIN)
    bad = run(tmp_path, "bad:app")
    assert (bad.returncode, bad.stdout) == (
        1,
        "/api/logs/stream: no REST twin at GET /api/logs\n",
    )
    good = run(tmp_path, "good:app")
    assert (good.returncode, good.stdout) == (0, "good:app: 1 pair, no breach\n")


def test_what_is_no_application_gets_one_sentence(tmp_path):
    (tmp_path / "thing.py").write_text("app = 7\n")
    for name, sentence in (
        ("thing:app", "thing:app is int, not a FastAPI application\n"),
        ("thing:other", "thing has no 'other'\n"),
        ("missing:app", "there is no module 'missing' here\n"),
        ("thing", "'thing': MODULE:APP is needed, such as main:app\n"),
    ):
        result = run(tmp_path, name)
        assert (result.returncode, result.stderr) == (2, sentence)
