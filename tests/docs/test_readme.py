"""What the README shows is what happens."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

from support.http import request
from support.markdown import ROOT, blocks, program, without_ids
from support.server import serving

README = ROOT / "README.md"


async def test_the_example_streams_what_the_readme_shows(folder: Path):
    """The ids differ, since each database has an epoch of its own; all else is as printed."""
    shown = next(block.code for block in blocks(README) if block.language == "text")
    insert = next(b.code for b in blocks(README) if b.code.startswith("python -c"))
    async with program(README) as names, serving(names["app"]) as port:
        path = "/api/orders/stream?city=Bergen"
        async with request(port, path) as answer:
            snapshot = await answer.next()
            shell = await asyncio.create_subprocess_shell(insert)
            assert await shell.wait() == 0
            order = await answer.next()
            assert without_ids(answer.raw.decode().strip()) == without_ids(shown.strip())
        headers = {"Last-Event-ID": snapshot.last_event_id}
        async with request(port, path, headers=headers) as answer:
            assert await answer.next() == order
        async with request(port, "/api/orders?city=Bergen") as answer:
            page: Any = json.loads(await answer.body())
            assert [item["id"] for item in page["orders"]] == [1]
        async with request(port, "/api/orders?city=Oslo") as answer:
            assert json.loads(await answer.body())["orders"] == []
        async with request(port, "/greeting") as answer:
            assert answer.status == 404  # the router is included under /api
        async with request(port, "/api/greeting") as answer:
            assert json.loads((await answer.next()).data) == {"hello": "world"}


def test_the_example_starts_by_its_command():
    """The command names the file that the example is saved as, and the application in it."""
    example = next(block for block in blocks(README) if block.language == "python")
    assert example.file_name == "app.py"
    commands = [block.code.strip() for block in blocks(README) if block.language == "sh"]
    assert "pip install uv && uv run uvicorn app:app" in commands
    assert "\napp = FastAPI(" in example.code


def test_the_example_is_short():
    example = next(block for block in blocks(README) if block.language == "python")
    assert len(example.code.splitlines()) < 20


def test_the_order_of_the_page():
    """One sentence, what it is not, an example, the two commands, dependencies, links."""
    text = README.read_text()
    marks = [
        "Declare a feed once",
        "not a message broker",
        "```python",
        "pip install uv && uv run headwater demo",
        "pip install uv && uv run pytest",
        "## What it needs",
        "## Read on",
    ]
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


def test_every_dependency_has_its_reason():
    """Each package of an extra is in the table."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = README.read_text().partition("## What it needs")[2].partition("## Read on")[0]
    assert project["dependencies"] == []
    for extra, packages in project["optional-dependencies"].items():
        assert f"`{extra}`" in table
        for package in packages:
            name = re.split(r"[\[<>=;~! ]", package)[0]
            assert name == "headwater" or re.search(rf"\b{name}\b", table), (extra, name)
