"""How soon a page is live again after each fault, with the heartbeat of a deployment: 30 s.

The short forms are in ``test_headwater_js.py`` and ``test_behind_proxies.py``. ``-s`` prints a row
for each case.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fronts import FRONTS, certificate
from line import Line
from test_headwater_js import FOLLOW, SIGN_IN, streams_of

from support.until import waited

pytestmark = [pytest.mark.browser, pytest.mark.soak, pytest.mark.timeout(600)]


class Case:
    """A signed-in page that follows the log, and a server that can fail."""

    def __init__(self, browser: Any, served: Any, address: str) -> None:
        self.served = served
        self.page = browser.open()
        self.page.call("Security.setIgnoreCertificateErrors", ignore=True)
        self.page.go(f"{address}/headwater.js")
        assert self.page.run(SIGN_IN, served.email, served.password)
        self.page.run(FOLLOW, "/api/logs", {})
        self.page.until("seen.feed.state === 'live'")
        served.log("before")
        self.page.until("seen.messages.at(-1) === 'before'")

    def recovers(self, name: str, mend: Callable[[], object], within: float = 60.0) -> None:
        """Mend the fault; the page is live again with everything, each once."""
        mend()
        began = time.monotonic()
        self.served.log("after")
        self.page.until("seen.messages.at(-1) === 'after' && seen.feed.state === 'live'", within)
        seconds = time.monotonic() - began
        got = self.page.evaluate("seen.messages")
        streams = streams_of(self.served)
        print(f"| {name} | {seconds:.1f} s | 0 | 0 | {streams} |")
        assert got == ["before", "meanwhile", "after"], got
        assert streams == 1


@pytest.fixture
def address(served_alone: Any, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the browser goes: the server itself, or a proxy before it."""
    kind = next((each for each in FRONTS if each.package == request.param), None)
    if kind is None:
        yield served_alone.address
        return
    kind.program()
    front = kind(tmp_path / "front", certificate(tmp_path), urlsplit(served_alone.address).port)
    front.begin()
    waited(front.reached, explain=lambda: front.log)
    yield front.address
    front.kill()


ALL = ["direct", *(each.package for each in FRONTS)]


@pytest.mark.parametrize("address", ALL, indirect=True)
def test_a_kill_and_a_restart(
    browser: Any, served_alone: Any, address: str, request: pytest.FixtureRequest
) -> None:
    case = Case(browser, served_alone, address)
    served_alone.kill()
    served_alone.insert("meanwhile")
    case.recovers(f"killed and restarted, {request.node.callspec.id}", served_alone.start)


@pytest.mark.parametrize("address", ["direct"], indirect=True)
def test_a_server_that_stands_still_for_two_minutes(
    browser: Any, served_alone: Any, address: str
) -> None:
    case = Case(browser, served_alone, address)
    served_alone.insert("meanwhile")
    case.page.until("seen.messages.at(-1) === 'meanwhile'")
    stopped = time.monotonic()
    served_alone.freeze()
    case.page.until("seen.feed.state === 'stale'", 110)
    print(f"stale after {time.monotonic() - stopped:.0f} s")
    left = 120 - (time.monotonic() - stopped)
    time.sleep(max(left, 0))  # the outage is that long
    case.recovers("SIGSTOP for 2 minutes", served_alone.thaw)


@pytest.mark.parametrize("address", ["direct"], indirect=True)
def test_a_sleep_of_an_hour(browser: Any, served_alone: Any, address: str) -> None:
    with Line(urlsplit(address).port) as line:
        case = Case(browser, served_alone, line.address)
        line.dead = True
        served_alone.log("meanwhile")
        case.page.evaluate(
            "void (Date.now = ((now) => () => now() + 3_600_000)(Date.now.bind(Date)))"
        )
        case.page.until("seen.states.includes('stale')", 10)

        def wake() -> None:
            line.dead = False

        case.recovers("sleep (the clock jumps by an hour)", wake)


@pytest.mark.parametrize("address", ["direct"], indirect=True)
def test_a_session_that_ended(browser: Any, served_alone: Any, address: str) -> None:
    case = Case(browser, served_alone, address)
    case.page.evaluate("fetch('/api/auth/logout', { method: 'POST' }).then(() => 1)")
    case.page.until("seen.asked.length === 1")
    served_alone.log("meanwhile")

    def sign_in() -> None:
        assert case.page.run(SIGN_IN, served_alone.email, served_alone.password)
        case.page.evaluate("void seen.asked[0][1](true)")

    case.recovers("session expired, signed in again", sign_in)
