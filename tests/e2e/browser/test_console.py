"""The page at ``/`` in a real browser, against a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from serving import Server

pytestmark = [pytest.mark.browser, pytest.mark.long]

ALL_LIVE = "document.querySelectorAll('.panel .light[data-state=live]').length === 5"
SIGN_IN_SHOWN = "document.querySelector('#sign-in').checkVisibility()"
# More than the 100 lines of a snapshot: a page that starts anew instead of resuming loses some.
MANY = [f"line {number}" for number in range(150)]
# Those in sight; of a long list only these are in the page.
LINES = "[...document.querySelectorAll('#logs-list .line')].sort((one, other) => \
one.ariaPosInSet - other.ariaPosInSet).map((one) => one.querySelector('.message').firstChild.data)"
KEPT = "document.querySelector('[data-kept]').textContent"
# The newest of 150 lines stands there: they are counted before they are drawn.
LAST = "document.querySelector('#logs-list .line:last-child .message')"
DRAWN = f"{KEPT} === '150 lines' && {LAST}?.textContent.includes('line 149')"
COPY = """(selector) => new Promise((resolve) => {
  navigator.clipboard.writeText = async (text) => resolve(text);
  document.querySelector(selector).click();
})"""


CLIENTS = "document.querySelectorAll('#activity tbody tr').length"


def shows(part: str, text: str) -> str:
    return f"document.querySelector('{part} [data-content]').innerText.includes('{text}')"


def kept(page: Any) -> list[str]:
    """The messages of all lines that the log keeps, as its button copies them."""
    text = page.run(COPY, "[data-copy-lines]")
    return [json.loads(line)["message"] for line in text.splitlines()]


def light(part: str) -> str:
    return f"document.querySelector('{part} .light').dataset.state"


def test_all_feeds_are_live_without_a_reload(console: Any, served: Any) -> None:
    """What the page is for: each kind of item appears by itself."""
    console.evaluate("globalThis.notReloaded = true")
    served.log("a line about a river")
    console.until(shows("#logs", "a line about a river"))
    served.notify("For you")
    console.until(shows("#notifications", "For you"))
    served.notify("For the team", team=True)
    console.until(shows("#notifications", "For the team"))
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
    page.until(ALL_LIVE)


def test_a_page_that_cannot_begin_says_why(browser: Any, served: Any) -> None:
    """The server answers 503 while its database is away, and comes back."""
    page = browser.open()
    page.call("Network.enable")
    page.call("Network.setBlockedURLs", urls=["*/api/auth/session*"])
    page.go(served.address)
    page.until("document.body.innerText.includes('The server cannot be reached. Trying again.')")
    page.choose("#password", "typed meanwhile")
    page.press("#password")
    page.call("Network.setBlockedURLs", urls=[])
    page.until(f"{SIGN_IN_SHOWN} && !document.body.innerText.includes('Trying again')")
    assert page.evaluate("document.querySelector('#password').value") == "typed meanwhile"


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
    console.press("input[name=level][value=info]")
    console.until(f"{LINES}.join() === 'an old error,old news,new news,a new error'")
    served.log("a trifle", level="debug")
    served.log("and news")
    console.until(shows("#logs", "and news"))
    assert "a trifle" not in kept(console)


def test_search_and_a_click_on_a_field_narrow_what_is_kept(console: Any, served: Any) -> None:
    fields = [{"river": "Elbe", "source": "Labe"}, {"river": "Rhine"}, {"river": "Elbe"}]
    entries = [{"message": f"line {n}", "fields": each} for n, each in enumerate(fields)]
    served.post("/api/logs", {"entries": entries})
    console.until(f"{LINES}.length === 3")
    console.choose("#log-search", "RHINE")
    console.until(f"{LINES}.join() === 'line 1'")
    assert console.evaluate(KEPT) == "1 of 3 lines"
    console.choose("#log-search", "")
    console.until(f"{LINES}.length === 3")
    console.press("#logs-list .line [data-toggle]")
    console.until("document.querySelector('.field[title*=river]')")
    console.press(".field[title*=river]")
    console.until(f"{LINES}.join() === 'line 0,line 2'")
    served.post("/api/logs", {"entries": [{"message": "line 3", "fields": {"river": "Elbe"}}]})
    served.post("/api/logs", {"entries": [{"message": "line 4", "fields": {"river": "Oder"}}]})
    console.until(f"{LINES}.join() === 'line 0,line 2,line 3'")
    console.press(".chip")
    console.until(f"{LINES}.length === 5")
    # A field may be called as what the server filters by.
    console.press(".field[title*=Labe]")
    console.until(f"{LINES}.join() === 'line 0'")


def test_older_lines_are_loaded_and_one_stays_where_one_is(console: Any, served: Any) -> None:
    served.log(*[f"old {number}" for number in range(250)])
    console.until(f"{KEPT} === '250 lines'")
    console.go(served.address)
    console.until(f"{KEPT} === '100 lines'")
    console.press("[data-older]")
    console.until(f"{KEPT} === '200 lines'")
    console.press("[data-older]")
    console.until(f"{KEPT} === '250 lines' && document.querySelector('[data-older]').hidden")
    assert kept(console) == [f"old {number}" for number in range(250)]


def test_an_opened_line_stays_where_it_is(console: Any, served: Any) -> None:
    """Reading its fields must not be a chase."""
    served.log(*MANY)
    console.until(DRAWN)
    toggle = "document.querySelector('#logs-list .line:nth-last-child(5) [data-toggle]')"
    console.evaluate(f"void {toggle}.click()")
    console.until("document.querySelector('.line.open')")
    console.until(SETTLED)
    where = "document.querySelector('.line.open').getBoundingClientRect().top"
    top = console.evaluate(where)
    for _ in range(5):
        served.log(*MANY[:40])
    console.until(f"{KEPT} === '350 lines'")
    console.until(SETTLED)
    assert console.evaluate(where) == top
    text = console.run(COPY, ".line.open .details > button")
    assert json.loads(text)["message"].startswith("line ")


def test_the_keyboard_goes_from_line_to_line(console: Any, served: Any) -> None:
    served.log(*MANY)
    console.until(DRAWN)
    console.evaluate("void document.querySelector('#logs-list [tabindex=\"0\"]').focus()")
    message = "document.activeElement.querySelector('.message').firstChild.data"
    assert console.evaluate(message) == "line 149"
    for key, line in [("ArrowUp", 148), ("Home", 0), ("ArrowDown", 1), ("End", 149)]:
        console.evaluate(
            "void document.activeElement.dispatchEvent(new KeyboardEvent('keydown', "
            f"{{ key: '{key}', bubbles: true }}))"
        )
        console.until(f"{message} === 'line {line}'")


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
    console.until(f"{DRAWN} && {bottom} < 2")
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
    console.until(f"{KEPT} === '150 lines'")
    getattr(served, end)()
    console.until(f"{light('#logs')} === 'reconnecting'")
    console.until("document.querySelector('#overall').dataset.state === 'reconnecting'")
    served.insert("while it was away")
    served.start()
    served.log("after")
    console.until(shows("#logs", "after"))
    console.until(ALL_LIVE, timeout=40)
    assert kept(console) == [*MANY, "while it was away", "after"]
    resumed = "document.querySelector('#logs .resumed').textContent"
    console.until(f"{resumed}.includes(' 2 caught up, 0 lost')")
    served.notify("Back again")
    console.until(shows("#notifications", "Back again"))
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
        page.until(ALL_LIVE)


def test_two_tabs_share_their_streams(console: Any, browser: Any, served: Any) -> None:
    """Browsers open six connections to a server, and a tab of its own would need five more."""
    second = browser.open(served.address)
    second.until(ALL_LIVE)
    assert second.evaluate("document.activeElement.id") == "console-title"
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
    page.until(ALL_LIVE)
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
    page.call("Network.enable")
    page.call("Network.setBlockedURLs", urls=["*/stream*"])
    page.go(served.address)
    sign_in_to(page, served)
    page.until("document.querySelectorAll('.panel .light[data-state=polling]').length === 5", 40)
    assert page.evaluate("document.querySelector('#overall').innerText.trim()") == "Live by polling"
    served.log(*MANY)
    served.use("inspector")
    page.until(f"{KEPT} === '150 lines'")
    page.until(shows("#activity", "inspector"))
    served.forget("inspector")
    page.until(f"{CLIENTS} === 0")

    page.call("Network.setBlockedURLs", urls=[])
    page.evaluate("dispatchEvent(new Event('online'))")
    page.until(ALL_LIVE)
    served.log("streamed")
    page.until(shows("#logs", "streamed"))
    assert kept(page) == [*MANY, "streamed"]


def test_every_control_has_a_name(console: Any) -> None:
    """Who cannot see the page hears these names."""
    nodes = console.call("Accessibility.getFullAXTree")["nodes"]
    controls = {
        *(
            "button",
            "combobox",
            "textbox",
            "searchbox",
            "checkbox",
            "link",
            "img",
            "table",
            "region",
        )
    }
    found = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in controls
    ]
    assert len(found) > 15
    assert [role for role, name in found if not name.strip()] == []


def test_a_long_name_leaves_the_figures_in_sight(
    browser: Any, served_alone: Any, sign_in_to: Any
) -> None:
    name = "edge-eu-central-1a-production-cluster-0000000017.internal.example.com"
    served_alone.post("/api/satellites", {"name": name})
    served_alone.use("a client with a name of very many words " * 3)
    console = browser.open(served_alone.address)
    sign_in_to(console, served_alone)
    console.until(f"{shows('#status', name)} && {shows('#activity', 'a client')}")
    for width in (390, 768, 1280, 2200):
        console.size(width, 800)
        console.until(SETTLED)
        for part in ("#status", "#activity"):
            one = f"document.querySelector('{part} .scroll')"
            assert console.evaluate(f"((one) => one.scrollWidth - one.clientWidth)({one})") <= 0


def test_nothing_is_wider_than_the_screen(console: Any, served: Any) -> None:
    served.log("a-very-long-word-" * 30)
    served.notify("another-very-long-word-" * 8)
    served.use("inspector")
    console.until(shows("#logs", "a-very-long-word-"))
    console.until(shows("#activity", "inspector"))
    for width in (320, 390, 768, 1440, 2200):
        console.size(width, 800)
        console.until(SETTLED)
        assert console.evaluate("document.documentElement.scrollWidth") <= width
