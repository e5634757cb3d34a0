"""The tutorial, followed word by word: its servers, its commands, and what they show."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.markdown import ROOT, Block, blocks, without_ids, write_files
from support.terminal import Terminal

PAGE = ROOT / "docs" / "tutorial.md"
UVICORN = ("python", "-m", "uvicorn", "app:app", "--port", "0")

pytestmark = [
    pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed"),
    pytest.mark.long,
]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()


def chapter(number: int) -> list[Block]:
    """The blocks of the sections from ``## number`` on, up to the demo's end for the first."""
    starts = {
        int(line[3]): at
        for at, line in enumerate(PAGE.read_text().splitlines(), 1)
        if re.match(r"## \d\.", line)
    }
    end = starts[2] if number == 1 else 10**6
    return [block for block in blocks(PAGE) if starts[number] < block.line < end]


def test_the_demo_is_watched_and_resumed_with_curl(terminal: Terminal):
    start, sign_in, page, stream, resume = (b.code for b in chapter(1) if b.language == "sh")
    assert "headwater demo" in start
    terminal.serve("headwater", "demo", "--port", "0")
    assert "demo@example.com" in terminal.run(sign_in)
    assert '"logs":[' in terminal.run(page)
    terminal.watch(stream)
    shown = terminal.shows(re.compile(rb"\nevent: log\nid: .+\ndata: .+\n\n"))
    assert shown.startswith("retry: 2000\n\nevent: snapshot\nid: ")
    seen = terminal.last_id
    terminal.watch(resume)
    shown = terminal.shows(re.compile(rb"\nevent: log\nid: .+\ndata: .+\n\n"))
    assert "snapshot" not in shown and "reset" not in shown and seen not in shown


def test_a_feed_on_a_table_of_ones_own(terminal: Terminal):
    assert write_files(PAGE, terminal.folder) == ["app.py", "notes.html"]
    said = ""
    for block in chapter(2):
        if block.language == "text":
            wanted = block.code.strip()
            if wanted.startswith(("retry:", "event:")):
                shown = terminal.shows(re.compile(rb"data: .*\n\n"))
                assert without_ids(shown.strip()) == without_ids(wanted), str(block)
            else:
                assert without_ids(said.strip()) == without_ids(wanted), str(block)
        elif block.language == "sh":
            if "pip install" in block.code:
                continue
            if "uvicorn" in block.code:
                terminal.serve(*UVICORN)
            elif "curl -N" in block.code:
                terminal.watch(block.code)
            else:
                if "You were away" in block.code:
                    terminal.kill_server()
                    terminal.serve(*UVICORN)
                said = terminal.run(block.code)


def test_the_page_shows_what_comes_also_across_a_restart(terminal: Terminal, tmp_path: Path):
    sys.path.insert(0, str(ROOT / "tests" / "e2e" / "browser"))
    try:
        import chromium
    finally:
        sys.path.pop(0)
    browser_path = chromium.find()
    if browser_path is None:
        pytest.skip("chromium is not installed (apt install chromium)")
    write_files(PAGE, terminal.folder)
    write = next(block.code for block in chapter(2) if "It rains" in block.code)
    terminal.serve(*UVICORN)
    port = terminal.address.rpartition(":")[2]
    with chromium.Chromium(browser_path, tmp_path / "profile") as browser:
        page: Any = browser.open(terminal.address)
        terminal.run(write)
        page.until("document.querySelectorAll('#notes li').length === 1")
        terminal.kill_server()
        terminal.serve(*UVICORN[:-1], port)
        terminal.run(write)
        page.until("document.querySelectorAll('#notes li').length === 2")
