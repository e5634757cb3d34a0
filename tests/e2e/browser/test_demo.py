"""What a newcomer does in the first minute: ``headwater demo``, open the page, sign in."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.browser

PARTS = {
    "#logs": "#logs-list .line",
    "#notifications": "#notifications li",
    "#metrics": "#metrics .line[d^=M]",
    "#activity": "#activity tbody tr",
}


@pytest.fixture
def demo() -> Iterator[SimpleNamespace]:
    """The running demo: its address and the sign-in that it prints."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("headwater"), "demo", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            address = re.search(r"http://127\.0\.0\.1:\d+", said)
            sign_in = re.search(r"(demo@example\.com) / (\w+)", said)
            if address and sign_in:
                break
        assert address, said
        assert sign_in, said
        yield SimpleNamespace(address=address[0], email=sign_in[1], password=sign_in[2])
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


@pytest.mark.long
def test_the_page_lives(browser: Any, demo: Any) -> None:
    page = browser.open(demo.address)
    # The form names the accounts, and one press signs in.
    button = "document.querySelector('.accounts button')"
    page.until(f"{button}.textContent === '{demo.email} / {demo.password}'")
    page.evaluate(f"void {button}.click()")
    for part, entry in PARTS.items():
        page.until(f"document.querySelector('{part} .light').dataset.state === 'live'")
        page.until(f"document.querySelector('{entry}')")
    # Six feeds by HTTP/1.1: one of them is polled, and all are live.
    page.until("document.querySelector('#overall').textContent.trim() === 'All 6 live'")
    assert page.evaluate("document.querySelectorAll('.light[data-state=polling]').length") == 1
    newest = "document.querySelector('[data-kept]').textContent"
    seen = page.evaluate(newest)
    page.until(f"{newest} !== '{seen}'")
    line = "document.querySelector('#metrics .line').getAttribute('d')"
    seen = page.evaluate(line)
    page.until(f"{line} !== '{seen}'")
    assert page.faults == []


def test_a_killed_server_loses_nothing_on_the_page(browser: Any, demo: Any) -> None:
    """The button that shows what Headwater is for."""
    page = browser.open(demo.address)
    page.until("document.querySelector('.accounts button')")
    page.evaluate("void document.querySelector('.accounts button').click()")
    page.until("document.querySelector('#logs .light').dataset.state === 'live'")
    page.press("#logs .controls button:last-child")
    page.until("document.querySelector('[data-kill]').checkVisibility()")
    page.press("[data-kill]")
    page.until("document.querySelector('#logs .light').dataset.state === 'reconnecting'")
    resumed = "document.querySelector('#logs .resumed').textContent"
    page.until(f"/ caught up, 0 lost[.]$/.test({resumed})", 60)
    assert page.faults == []


ANSWER = "document.querySelector('#answers li')"
ASK = """(text) => {
  const input = document.querySelector('#question');
  input.value = text;
  input.form.requestSubmit();
}"""


@pytest.mark.long
def test_an_answer_outlives_a_reload_and_says_when_its_server_died(browser: Any, demo: Any) -> None:
    """What the ask box is there to show, with every connection of the browser in use."""
    page = browser.open(demo.address)
    page.until("document.querySelector('.accounts button')")
    page.evaluate("void document.querySelector('.accounts button').click()")
    page.until("document.querySelector('#answers .light').dataset.state === 'live'")

    page.run(ASK, "Can I stop you?")
    text = f"{ANSWER}.querySelector('.text').textContent"
    page.until(f"{text}.startsWith('Press Stop')")
    page.go(demo.address)
    page.until(f"{text}.startsWith('Press Stop and I stop within')")
    other = browser.open(demo.address)
    other.until(f"{text}.startsWith('Press Stop and I stop within')")
    page.press("#answers li button")
    for tab in (page, other):
        tab.until(f"{ANSWER}.dataset.state === 'cancelled'")
        assert tab.evaluate(f"{ANSWER}.querySelector('button').hidden")
    other.close()

    page.run(ASK, "Will nobody stop you?")
    page.until("document.querySelectorAll('#answers li').length === 2")
    page.until(f"{text}.startsWith('Press Stop')")
    page.press("#logs .controls button:last-child")
    page.until("document.querySelector('[data-kill]').checkVisibility()")
    page.press("[data-kill]")
    page.until(f"{ANSWER}.dataset.state === 'lost'", 60)
    assert page.evaluate(f"{text}.startsWith('Press Stop')"), "what was written stays"
    assert page.faults == []


@pytest.mark.soak
def test_a_live_line_comes_after_the_page(browser: Any, demo: Any) -> None:
    """From the moment at which the page is asked for, the sign-in included. ``-s`` prints it."""
    kept = "document.querySelector('[data-kept]').textContent"
    found = []
    for _ in range(3):
        browser.renew()
        page = browser.open()
        began = time.monotonic()
        page.go(demo.address)
        page.until("document.querySelector('.accounts button')")
        page.evaluate("void document.querySelector('.accounts button').click()")
        page.until(f"{kept} && {kept} !== (globalThis.first ??= {kept})")
        found.append(time.monotonic() - began)
        assert page.faults == []
    shown = ", ".join(f"{seconds:.2f}" for seconds in found)
    print(f"the first live line after {statistics.median(found):.2f} s; each: {shown}")
