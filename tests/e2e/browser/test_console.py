"""The page at ``/`` in a real browser, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server

pytestmark = pytest.mark.browser

FIVE_LIVE = "document.querySelectorAll('.panel .light[data-state=live]').length === 5"
SIGN_IN_SHOWN = "document.querySelector('#sign-in').checkVisibility()"
# More than the 100 lines of a snapshot: a page that starts anew instead of resuming loses some.
MANY = [f"line {number}" for number in range(150)]
LINES = "[...document.querySelectorAll('#logs-list .message')].map((one) => one.firstChild.data)"


CLIENTS = "document.querySelectorAll('#activity tbody tr').length"


@pytest.fixture(scope="module")
def one_server(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("console"))
    server.load(seeded)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def served(one_server: Server) -> Server:
    """A running server, with nothing in its feeds: a start takes seconds, and this does not."""
    one_server.empty()
    return one_server


@pytest.fixture
def served_alone(seeded: Path, tmp_path: Path) -> Iterator[Server]:
    """A server for a test that leaves traces: of a throttle, or of its only user."""
    server = Server(tmp_path)
    server.load(seeded)
    try:
        server.start()
        yield server
    finally:
        server.close()


def shows(part: str, text: str) -> str:
    return f"document.querySelector('{part} [data-content]').innerText.includes('{text}')"


def light(part: str) -> str:
    return f"document.querySelector('{part} .light').dataset.state"


def test_all_five_feeds_are_live_without_a_reload(console: Any, served: Any) -> None:
    """What the page is for: each kind of item appears by itself."""
    console.evaluate("globalThis.notReloaded = true")
    served.log("a line about a river")
    console.until(shows("#logs", "a line about a river"))
    served.notify("For you")
    console.until(shows("#personal", "For you"))
    served.notify("For the team", team=True)
    console.until(shows("#team", "For the team"))
    console.until(shows("#personal", "For the team"))
    served.report(61.5)
    console.until(shows("#metrics", "61.5 %"))
    served.use("inspector", requests=41)
    console.until(shows("#activity", "inspector"))
    served.use("inspector", requests=1)
    console.until(shows("#activity", "42"))
    assert console.evaluate(CLIENTS) == 1
    served.forget("inspector")
    console.until(f"{CLIENTS} === 0")
    assert console.evaluate("globalThis.notReloaded")
    assert console.faults == []


def test_a_wrong_password_is_told_in_words(browser: Any, served: Any, sign_in_to: Any) -> None:
    page = browser.open(served.address)
    sign_in_to(page, served, "not the password")
    page.until("document.body.innerText.includes('E-mail and password do not match.')")
    sign_in_to(page, served)
    page.until(FIVE_LIVE)


def test_too_many_tries_are_told_when_to_go_on(
    browser: Any, served_alone: Any, sign_in_to: Any
) -> None:
    page = browser.open(served_alone.address)
    message = "document.querySelector('[data-error]').textContent"
    button = "document.querySelector('#sign-in button')"
    for _ in range(100):
        sign_in_to(page, served_alone, "not the password")
        page.until(f"{message} && ({button}.disabled || {message}.includes('match'))")
        if page.evaluate(f"{button}.disabled"):
            break
    assert page.evaluate(message).startswith("Too many tries. Try again in ")


def test_the_level_filter_holds_for_old_and_new_lines(console: Any, served: Any) -> None:
    served.log("an old error", level="error")
    served.log("old news")
    console.until(shows("#logs", "old news"))
    console.press("input[name=level][value=error]")
    console.until(f"{LINES}.join() === 'an old error'")
    console.until(f"{light('#logs')} === 'live'")
    served.log("new news")
    served.log("a new error", level="error")
    console.until(shows("#logs", "a new error"))
    assert console.evaluate(LINES) == ["an old error", "a new error"]
    console.press("input[name=level][value='']")
    console.until(f"{LINES}.join() === 'an old error,old news,new news,a new error'")


def test_the_source_filter_offers_what_was_seen(console: Any, served: Any) -> None:
    served.log("from the API")
    served.insert("from elsewhere")
    console.until("document.querySelector('[data-source]').options.length === 3")
    console.choose("[data-source]", "sql")
    console.until(f"{LINES}.join() === 'from elsewhere'")


def test_pause_holds_the_log_and_loses_nothing(console: Any, served: Any) -> None:
    console.press("[data-pause]")
    served.log("one", "two")
    console.until("document.querySelector('[data-pause]').textContent === 'Resume (2)'")
    assert console.evaluate(LINES) == []
    console.press("[data-pause]")
    console.until(f"{LINES}.join() === 'one,two'")


# Two frames: in the first one a scroll is told to the page, and what it does about it comes after.
SETTLED = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(
    () => setTimeout(() => done(true)))))"""


def test_one_who_scrolls_up_is_left_there(console: Any, served: Any) -> None:
    """Reading an old line must not be torn away by new ones; a button leads back."""
    served.log(*MANY)
    scroll = "document.querySelector('#logs [data-scroll]')"
    bottom = f"{scroll}.scrollHeight - {scroll}.scrollTop - {scroll}.clientHeight"
    console.until(f"{LINES}.length === 150 && {bottom} < 2")
    console.until(SETTLED)
    console.evaluate(f"{scroll}.scrollTop = 300")
    console.until(SETTLED)
    served.log("news")
    console.until("document.querySelector('[data-jump]').textContent === '1 new line below'")
    assert console.evaluate(f"{scroll}.scrollTop") == 300
    console.press("[data-jump]")
    console.until(f"{bottom} < 2 && document.querySelector('[data-jump]').hidden")


@pytest.mark.parametrize("end", ["kill", pytest.param("stop", marks=pytest.mark.soak)])
def test_a_restart_loses_and_repeats_no_item(console: Any, served: Any, end: str) -> None:
    served.log(*MANY)
    console.until(f"{LINES}.length === 150")
    getattr(served, end)()
    console.until(f"{light('#logs')} === 'reconnecting'")
    console.until("document.querySelector('#overall').dataset.state === 'reconnecting'")
    served.insert("while it was away")
    served.start()
    served.log("after")
    console.until(shows("#logs", "after"))
    console.until(FIVE_LIVE, timeout=40)
    assert console.evaluate(LINES) == [*MANY, "while it was away", "after"]
    served.notify("Back again")
    console.until(shows("#personal", "Back again"))
    assert console.faults == []


def test_signing_out_ends_it_in_all_tabs(
    console: Any, browser: Any, served: Any, sign_in_to: Any
) -> None:
    served.log("for my eyes only")
    second = browser.open(served.address)
    second.until(shows("#logs", "for my eyes only"))
    console.press("#sign-out")
    for page in (console, second):
        page.until(SIGN_IN_SHOWN)
        assert "for my eyes only" not in page.evaluate("document.body.textContent")
    sign_in_to(second, served)
    for page in (console, second):
        page.until(FIVE_LIVE)


def test_two_tabs_share_their_streams(console: Any, browser: Any, served: Any) -> None:
    """Browsers open six connections to a server, and a tab of its own would need five more."""
    second = browser.open(served.address)
    second.until(FIVE_LIVE)
    served.log("for both")
    for page in (console, second):
        page.until(shows("#logs", "for both"))
    second.close()
    served.log("for the one that is left")
    console.until(shows("#logs", "for the one that is left"))
    assert console.evaluate(LINES) == ["for both", "for the one that is left"]


def test_a_session_that_ends_elsewhere_leads_to_the_form(
    browser: Any, served_alone: Any, sign_in_to: Any
) -> None:
    """A disabled account must not go on reading, and one should see why the page stopped."""
    page = browser.open(served_alone.address)
    sign_in_to(page, served_alone)
    page.until(FIVE_LIVE)
    other = {"email": "other@example.org", "password": Server.password, "role": "global_admin"}
    served_alone.post("/api/users", other)
    user = f"/api/users/{served_alone.user_id}"
    served_alone.api.patch(user, json={"disabled": True}).raise_for_status()
    page.until(SIGN_IN_SHOWN)
    assert "Your session ended." in page.text()


def test_streams_that_do_not_get_through_are_polled_for(
    browser: Any, served: Any, sign_in_to: Any
) -> None:
    """Some company proxies hold back every stream; the page must work behind them all the same."""
    page = browser.open()
    # Without the shared worker the streams are the page's own, and can be blocked in it.
    page.call("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.SharedWorker")
    page.call("Network.enable")
    page.call("Network.setBlockedURLs", urls=["*/stream*"])
    page.go(served.address)
    sign_in_to(page, served)
    page.until("document.querySelectorAll('.panel .light[data-state=polling]').length === 5", 40)
    served.log(*MANY)
    served.use("inspector")
    page.until(f"{LINES}.length === 150")
    page.until(shows("#activity", "inspector"))
    served.forget("inspector")
    page.until(f"{CLIENTS} === 0")

    page.call("Network.setBlockedURLs", urls=[])
    page.evaluate("dispatchEvent(new Event('online'))")
    page.until(FIVE_LIVE)
    served.log("streamed")
    page.until(shows("#logs", "streamed"))
    assert page.evaluate(LINES) == [*MANY, "streamed"]


def test_every_control_has_a_name(console: Any) -> None:
    """Who cannot see the page hears these names."""
    nodes = console.call("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "combobox", "textbox", "radio", "link", "img", "table", "region"}
    found = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls
    ]
    assert len(found) > 15
    assert [role for role, name in found if not name.strip()] == []


def test_nothing_is_wider_than_the_screen(console: Any, served: Any) -> None:
    served.log("a-very-long-word-" * 30)
    served.notify("another-very-long-word-" * 8)
    served.use("inspector")
    console.until(shows("#logs", "a-very-long-word-"))
    console.until(shows("#activity", "inspector"))
    for width in (360, 768, 1440):
        console.size(width, 800)
        console.until(SETTLED)
        assert console.evaluate("document.documentElement.scrollWidth") <= width
