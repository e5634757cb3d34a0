"""``headwater.js`` in real browsers, against a real server and a line that fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from line import Line
from serving import Server

from support.until import waited

pytestmark = [pytest.mark.browser, pytest.mark.long]

SIGN_IN = """(email, password) => fetch("/api/auth/login", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ email, password }),
}).then((answer) => answer.ok)"""

# Notes what a feed tells: messages, how many snapshots, each state.
FOLLOW = """async (url, options) => {
  const { follow } = await import("/headwater.js");
  const seen = { messages: [], snapshots: 0, states: [], asked: [] };
  globalThis.feeds ??= [];
  seen.feed = follow(url, {
    onSnapshot(items) {
      seen.snapshots += 1;
      seen.messages = items.map(({ message }) => message);
    },
    onItem: ({ message }) => seen.messages.push(message),
    onState: (state) => seen.states.push(state),
    onSignIn: (status) => new Promise((resolve) => seen.asked.push([status, resolve])),
    ...options,
  });
  feeds.push(seen);
  globalThis.seen ??= seen;
}"""
MESSAGES = "seen.messages.join()"
LIVE = "feeds.every(({ feed }) => feed.state === 'live')"


def page_of(browser: Any, served: Any, address: str | None = None) -> Any:
    """A signed-in tab without any script of its own: a page of text."""
    page = browser.open(f"{address or served.address}/headwater.js")
    assert page.run(SIGN_IN, served.email, served.password)
    return page


def followed(page: Any, *urls: str, **options: Any) -> Any:
    for url in urls or ("/api/logs",):
        page.run(FOLLOW, url, options)
    page.until(LIVE)
    return page


@pytest.fixture(scope="module")
def running_one(seeded: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One server for the tests that leave it running, with a heartbeat each second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADWATER_HEARTBEAT_SECONDS", "1")
        server = Server(tmp_path_factory.mktemp("steady"))
    server.load(seeded)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def steady(running_one: Any) -> Any:
    """That server, without streams or log lines of another test."""
    waited(lambda: streams_of(running_one) == 0, 20, lambda: "streams of another test are open")
    running_one.empty()
    return running_one


@pytest.fixture
def line(steady: Any) -> Iterator[Line]:
    with Line(urlsplit(steady.address).port) as line:
        yield line


def test_it_follows_over_a_stop_and_a_kill(any_browser: Any, served: Any) -> None:
    """The core path, in each browser: nothing is lost or repeated."""
    page = followed(page_of(any_browser, served))
    served.log("one", "two")
    page.until(f"{MESSAGES} === 'one,two'")
    for end in (served.stop, served.kill):
        end()
        page.until("seen.feed.state === 'reconnecting'")
        served.insert("missed")
        served.start()
        served.log("next")
        page.until("seen.messages.at(-1) === 'next'")
        page.evaluate("void (seen.messages[seen.messages.length - 1] = 'seen')")
    assert page.evaluate(MESSAGES) == "one,two,missed,seen,missed,seen"
    assert page.evaluate("seen.snapshots") == 1


def test_a_proxys_502_does_not_end_it(any_browser: Any, steady: Any, line: Line) -> None:
    """Here an EventSource is dead for good."""
    page = followed(page_of(any_browser, steady, line.address))
    line.bad = True
    line.cut()
    page.until("seen.states.includes('reconnecting')")
    steady.log("missed")
    # More than the first reconnect has failed.
    page.evaluate("new Promise((resolve) => setTimeout(() => resolve(1), 2500))")
    line.bad = False
    page.until(f"{MESSAGES} === 'missed' && seen.feed.state === 'live'", 15)
    steady.log("next")
    page.until(f"{MESSAGES} === 'missed,next'")


def test_tabs_share_and_hand_over(any_browser: Any, steady: Any) -> None:
    first = followed(page_of(any_browser, steady))
    second = followed(any_browser.open(f"{steady.address}/headwater.js"))
    steady.log("for both")
    for page in (first, second):
        page.until(f"{MESSAGES} === 'for both'")
    assert streams_of(steady) == 1
    first.close()
    steady.log("for the one that is left")
    second.until(f"{MESSAGES} === 'for both,for the one that is left'")
    assert streams_of(steady) == 1


def streams_of(steady: Any) -> int:
    """Open streams, as the server counts them."""
    for text in steady.api.get("/metrics").text.splitlines():
        if text.startswith("headwater_streams_open"):
            return int(float(text.split()[-1]))
    raise AssertionError("no such metric")


def test_twelve_tabs_of_five_feeds_on_one_origin(browser: Any, steady: Any) -> None:
    """HTTP/1.1 allows six connections to a host: five stream, and one is free for requests."""
    urls = [
        "/api/logs",
        "/api/notifications",
        f"/api/teams/{steady.team_id}/notifications",
        f"/api/satellites/{steady.satellite_id}/metrics",
        f"/api/users/me/mcp/client-activity?team_id={steady.team_id}",
    ]
    pages = [page_of(browser, steady)]
    pages += [browser.open(f"{steady.address}/headwater.js") for _ in range(11)]
    for page in pages:
        followed(page, *urls)
    assert streams_of(steady) == 5
    steady.log("for all")
    for page in pages:
        page.until(f"{MESSAGES} === 'for all'")
    assert page.evaluate("fetch('/api/users/me').then(({ status }) => status)") == 200


def test_a_server_that_stands_still_is_noticed(browser: Any, steady: Any) -> None:
    page = followed(page_of(browser, steady))
    steady.freeze()
    try:
        page.until("seen.feed.state === 'stale'", 15)
    finally:
        steady.thaw()
    began = time.monotonic()
    steady.log("after")
    page.until(f"{MESSAGES} === 'after' && seen.feed.state === 'live'", 15)
    assert time.monotonic() - began < 12
    assert page.evaluate("seen.snapshots") == 1


def test_the_consoles_light_shows_a_server_that_stands_still(browser: Any, steady: Any) -> None:
    page = browser.open(f"{steady.address}/headwater.js")
    assert page.run(SIGN_IN, steady.email, steady.password)
    page.go(steady.address)
    light = "document.querySelector('#logs .light')"
    page.until(f"{light}.dataset.state === 'live'")
    steady.freeze()
    try:
        page.until(f"{light}.dataset.state === 'stale' && {light}.innerText === 'No word'", 15)
    finally:
        steady.thaw()
    page.until(f"{light}.dataset.state === 'live'", 15)


def test_a_line_that_died_without_a_word_is_noticed(browser: Any, steady: Any, line: Line) -> None:
    page = followed(page_of(browser, steady, line.address))
    line.dead = True
    page.until("seen.feed.state !== 'live'", 15)
    line.cut()
    line.dead = False
    steady.log("after")
    page.until(f"{MESSAGES} === 'after' && seen.feed.state === 'live'", 15)


def test_after_a_sleep_it_is_live_again(browser: Any, steady: Any, line: Line) -> None:
    page = followed(page_of(browser, steady, line.address))
    line.dead = True
    steady.log("while it slept")
    page.evaluate("void (Date.now = ((now) => () => now() + 3_600_000)(Date.now.bind(Date)))")
    page.until("seen.states.includes('stale')", 10)
    line.dead = False
    page.until(f"{MESSAGES} === 'while it slept' && seen.feed.state === 'live'", 15)


def test_a_proxy_that_holds_streams_back_is_polled_through(
    browser: Any, steady: Any, line: Line
) -> None:
    line.holds = True
    page = page_of(browser, steady, line.address)
    page.run(FOLLOW, "/api/logs", {})
    page.until("seen.feed.state === 'polling'", 20)
    steady.log("one")
    page.until(f"{MESSAGES} === 'one'")
    line.holds = False
    line.cut()
    page.until("seen.feed.state === 'live'", 30)
    steady.log("two")
    page.until(f"{MESSAGES} === 'one,two'")


def test_a_slow_line_that_breaks_anywhere_loses_nothing(
    browser: Any, steady: Any, line: Line
) -> None:
    page = followed(page_of(browser, steady, line.address))
    line.delay = 0.02
    for number in range(30):
        steady.log(f"{number}")
        if number % 7 == 0:
            line.cut()
    expected = ",".join(str(number) for number in range(30))
    page.until(f"{MESSAGES} === '{expected}'", 30)


def test_a_session_that_ended_asks_for_a_new_one_and_goes_on(browser: Any, steady: Any) -> None:
    page = followed(page_of(browser, steady))
    page.evaluate("fetch('/api/auth/logout', { method: 'POST' }).then(() => 1)")
    page.until("seen.asked.length === 1")
    assert page.evaluate("seen.asked[0][0]") == 401
    steady.log("meanwhile")
    assert page.run(SIGN_IN, steady.email, steady.password)
    page.evaluate("void seen.asked[0][1](true)")
    page.until(f"{MESSAGES} === 'meanwhile' && seen.feed.state === 'live'")
    assert page.evaluate("seen.snapshots") == 1


def test_after_a_reload_it_goes_on_where_it_was(browser: Any, steady: Any) -> None:
    page = followed(page_of(browser, steady), resume="logs")
    steady.log("before")
    page.until(f"{MESSAGES} === 'before'")
    page.go("about:blank")
    steady.log("between")
    page.go(f"{steady.address}/headwater.js")
    followed(page, resume="logs")
    page.until(f"{MESSAGES} === 'between'")
    assert page.evaluate("seen.snapshots") == 0


def test_by_fetch_with_a_key_it_needs_no_cookie(any_browser: Any, steady: Any, line: Line) -> None:
    page = any_browser.open(f"{line.address}/headwater.js")
    headers = {"Authorization": steady.api.headers["Authorization"]}
    followed(page, headers=headers)
    steady.log("one")
    page.until(f"{MESSAGES} === 'one'")
    line.bad = True
    line.cut()
    page.until("seen.feed.state === 'reconnecting'")
    steady.log("two")
    line.bad = False
    page.until(f"{MESSAGES} === 'one,two' && seen.feed.state === 'live'", 30)
