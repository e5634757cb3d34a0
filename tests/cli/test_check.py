"""``headwater check`` as a user runs it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest
from sqlalchemy import create_engine

from headwater.sql.alembic import add_tracking

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


STARLETTE = """
import sys
sys.modules["fastapi"] = None
from starlette.applications import Starlette
from starlette.routing import Mount
from headwater.eventlog import MemoryLog
from headwater.web.starlette import LiveRoutes
live = LiveRoutes()

@live.feed("/{name}")
async def items(request):
    return MemoryLog().topic("t")

app = Starlette(routes=[Mount(PREFIX, routes=live.routes)])
"""


def test_an_application_of_starlette_without_fastapi(tmp_path):
    (tmp_path / "good.py").write_text(STARLETTE.replace("PREFIX", "'/api'"))
    (tmp_path / "bad.py").write_text(STARLETTE.replace("PREFIX", "'/v1'"))
    assert run(tmp_path, "good:app").stdout == "good:app: 1 pair, no breach\n"
    bad = run(tmp_path, "bad:app")
    assert (bad.returncode, bad.stdout, bad.stderr) == (
        1,
        "/v1/{name}/stream: a stream's path is /api/{resource}/{action}/stream\n",
        "",
    )


MODEL = """
from headwater.sql import track
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase): ...
@track(keyed=True, filters=("owner",))
class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[int]
"""


@pytest.mark.long
def test_it_lists_tables_whose_tracking_drifted(tmp_path):
    """An operator sees before a deployment what would answer 503, and what mends it."""
    (tmp_path / "good.py").write_text(APP + TWIN + MODEL)
    database = sqlite3.connect(tmp_path / "data.db")
    url = "sqlite:///data.db"
    mends = "add_tracking(op, 'notes', keyed=True, filters=['owner'])"
    missing = run(tmp_path, "good:app", "--database", url)
    sentence = "a table is missing; is the database migrated?"
    assert (missing.returncode, missing.stdout) == (1, f"table notes: {sentence}: {mends}\n")
    engine = create_engine(f"sqlite:///{tmp_path / 'data.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, owner INTEGER)")
        add_tracking(connection, "notes", keyed=True, filters=["owner"])
    good = run(tmp_path, "good:app", "--database", url)
    assert (good.returncode, good.stdout) == (0, "good:app: 1 pair, no breach\n")
    database.execute("DROP TRIGGER headwater_notes_delete")
    gone = run(tmp_path, "good:app", "--database", url)
    assert (gone.returncode, gone.stdout) == (
        1,
        f"table notes: its trigger 'delete' is gone: {mends}\n",
    )
    database.close()
    engine.dispose()


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("postgresql://ann:secret@127.0.0.1:1/h", "Connection refused"),
        ("sqlite:///good.py", "the file is not a database"),
    ],
)
def test_a_database_that_is_away_gets_one_sentence(tmp_path, database: str, says: str):
    (tmp_path / "good.py").write_text(APP + TWIN)
    found = run(tmp_path, "--database", database, "good:app")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert says in found.stderr
    assert "secret" not in found.stderr


@pytest.mark.long
def test_what_is_no_application_gets_one_sentence(tmp_path):
    (tmp_path / "thing.py").write_text("app = 7\ndef make(settings): ...\n")
    for name, sentence in (
        ("thing:app", "thing:app is int, not a FastAPI or Starlette application\n"),
        ("thing:other", "thing has no 'other'\n"),
        (
            "thing:make",
            "thing:make is a function that cannot be called without arguments: missing a required "
            "argument: 'settings'\n",
        ),
        ("missing:app", "there is no module 'missing' here\n"),
        ("thing", "'thing': write MODULE:APP, such as main:app\n"),
    ):
        result = run(tmp_path, name)
        assert (result.returncode, result.stderr) == (2, sentence)
