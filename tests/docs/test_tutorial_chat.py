"""The tutorial of the chat page, tried in a browser as it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.markdown import ROOT, write_files
from support.terminal import Terminal

PAGE = ROOT / "docs" / "tutorial-chat.md"
UVICORN = ("python", "-m", "uvicorn", "app:app", "--port")

ASK = """(text) => {
  document.querySelector('#ask input').value = text;
  document.querySelector('#ask').requestSubmit();
}"""
LAST = "document.querySelector('#chat li:last-child')"
BEGAN = f"{LAST}.querySelector('p').textContent.startsWith('You asked: ')"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path)
    yield made
    made.close()


@pytest.mark.long
@pytest.mark.browser
def test_an_answer_outlives_the_page_and_says_when_its_server_died(
    terminal: Terminal, tmp_path: Path
) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "e2e" / "browser"))
    try:
        import chromium
    finally:
        sys.path.pop(0)
    browser_path = chromium.find()
    if browser_path is None:
        pytest.skip("chromium is not installed (apt install chromium)")
    assert write_files(PAGE, terminal.folder) == ["app.py", "chat.html"]
    terminal.serve(*UVICORN, "0")
    port = terminal.address.rpartition(":")[2]
    with chromium.Chromium(browser_path, tmp_path / "profile") as browser:
        page: Any = browser.open(terminal.address)
        page.run(ASK, "why?")
        page.until(BEGAN)
        page.go(terminal.address)
        page.until(f"{BEGAN} && {LAST}.querySelector('b').textContent === 'why?'")
        other: Any = browser.open(terminal.address)
        other.until(BEGAN)
        page.press("#chat button")
        for tab in (page, other):
            tab.until(f"{LAST}.querySelector('small').textContent === 'cancelled'")
        other.close()

        page.run(ASK, "and now?")
        page.until(f"document.querySelectorAll('#chat li').length === 2 && {BEGAN}")
        terminal.kill_server()
        terminal.serve(*UVICORN, port)
        page.until(f"{LAST}.querySelector('small').textContent === 'lost'", 60)
        assert page.evaluate(BEGAN), "what was written stays"
