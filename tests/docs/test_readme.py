"""What the README shows is what happens."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.http import request
from support.markdown import ROOT, blocks, program, without_ids
from support.server import serving
from support.terminal import Terminal

README = ROOT / "README.md"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in a clone, as far as the README's commands can tell."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    made = Terminal(tmp_path)
    yield made
    made.close()


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_first_example_does_what_is_printed(terminal: Terminal):
    """With the printed commands alone. The ids differ: each database has an epoch of its own."""
    found = blocks(README)
    example = next(block.code for block in found if block.language == "python")
    assert (ROOT / "docs" / "examples" / "app.py").read_text().endswith(f'"""\n\n{example}')
    # The tests' environment is that of `uv run`.
    serve, follow, write = (
        block.code.removeprefix("uv run ") for block in found[1:4] if block.language == "sh"
    )
    shown = next(block.code for block in found if block.language == "text")
    terminal.serve("python", "-m", *serve.split(), "--port", "0")
    terminal.watch(follow)
    said = terminal.shows(re.compile(rb"event: snapshot\n.*\n.*\n\n"))
    terminal.run(write)
    said += terminal.shows(re.compile(rb"event: order\n.*\n.*\n\n"))
    assert without_ids(said.strip()) == without_ids(shown.strip())
    position = terminal.last_id
    terminal.kill_server()
    terminal.serve("python", "-m", *serve.split(), "--port", "0")
    terminal.run(write)
    terminal.watch(follow.replace("curl ", f"curl -H 'Last-Event-ID: {position}' "))
    said = terminal.shows(re.compile(rb"event: order\n.*\n.*\n\n"))
    assert '{"id":4,"city":"Bergen"}' in said
    assert "snapshot" not in said


async def test_the_second_example_streams_its_greeting(folder: Path):
    async with program(README) as names, serving(names["app"]) as port:
        async with request(port, "/api/greeting") as answer:
            assert json.loads((await answer.next()).data) == {"hello": "world"}


def test_the_example_is_short():
    example = next(block for block in blocks(README) if block.language == "python")
    assert len(example.code.splitlines()) < 20


def test_the_order_of_the_page():
    """One sentence, what it is not, an example, the two commands, dependencies, links."""
    text = README.read_text()
    marks = [
        "Declare a feed once",
        "It is not",
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
