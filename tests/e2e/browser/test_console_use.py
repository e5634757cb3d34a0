"""What the page is like to use: for everybody's eyes and hands, and for those who run Headwater."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support import npm
from support.until import waited

pytestmark = [pytest.mark.browser, pytest.mark.long]

ALL_LIVE = "document.querySelectorAll('.panel .light[data-state=live]').length === 5"
AXE = """() => axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
  violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => [id, ...nodes.map(({ html }) => html.slice(0, 160))]))"""


def signed_in(browser: Any, server: Any, sign_in_to: Any) -> Any:
    page = browser.open(server.address)
    sign_in_to(page, server)
    page.until(ALL_LIVE)
    return page


@pytest.fixture(scope="session")
def axe() -> str:
    return (npm.installed() / "node_modules" / "axe-core" / "axe.min.js").read_text()


def found_by_axe(page: Any, axe: str) -> list[Any]:
    """Serious findings. axe is put in by the browser's own protocol, past the page's policy."""
    page.evaluate(f"void (() => {{ {axe} }})()")
    return list(page.run(AXE))


@pytest.mark.timeout(300)
def test_axe_finds_nothing_serious(browser: Any, served: Any, axe: str, sign_in_to: Any) -> None:
    page = browser.open(served.address)
    page.prefer(reduced_motion="reduce")
    page.until("document.querySelector('#sign-in').checkVisibility()")
    for theme in ("light", "dark"):
        page.prefer(color_scheme=theme, reduced_motion="reduce")
        assert found_by_axe(page, axe) == [], f"the form, {theme}"
    sign_in_to(page, served)
    page.until(ALL_LIVE)
    served.log("a line", level="error")
    served.notify("For you")
    served.use("inspector")
    served.report(12.0)
    page.until(
        "document.querySelector('#activity tbody tr') && document.querySelector('.notices li')"
    )
    page.until("document.querySelector('#logs-list .line')")
    for width in (1440, 390):
        page.size(width, 900)
        for theme in ("light", "dark"):
            page.prefer(color_scheme=theme, reduced_motion="reduce")
            assert found_by_axe(page, axe) == [], f"live, {theme}, {width}"
            page.evaluate("void (location.hash = '#admin')")
            page.until("document.querySelectorAll('#admin tbody tr').length > 5")
            assert found_by_axe(page, axe) == [], f"administration, {theme}, {width}"
            page.evaluate("void (location.hash = '#live')")
            page.press("#logs .controls button:last-child")
            page.press("#logs-list .line [data-toggle]")
            page.until("document.querySelector('#wire').checkVisibility()")
            assert found_by_axe(page, axe) == [], f"wire, {theme}, {width}"
            page.press("#logs-list .line [data-toggle]")
            page.press("#wire [data-close]")


def test_the_console_of_the_browser_stays_empty(browser: Any, served: Any, sign_in_to: Any) -> None:
    """The page before the sign-in included: nobody is signed in, and that is no error."""
    page = browser.open(served.address)
    page.until("document.querySelector('#sign-in').checkVisibility()")
    sign_in_to(page, served)
    page.until(ALL_LIVE)
    page.evaluate("void (location.hash = '#admin')")
    page.until("document.querySelectorAll('#admin tbody tr').length > 5")
    assert page.faults == []
    assert page.failed == []


def test_the_wire_shows_frames_and_a_dropped_connection_loses_nothing(
    console: Any, served: Any
) -> None:
    """What Headwater promises, to be seen."""
    frames = "document.querySelector('[data-frames]').innerText"
    console.press("#logs .controls button:last-child")
    console.until(f"{frames}.includes('event: snapshot')")
    assert console.evaluate("document.activeElement.matches('#wire [data-close]')")
    served.log("over the wire")
    console.until(f"{frames}.includes('over the wire') && {frames}.includes('id: ')")
    text = console.evaluate("document.querySelector('#wire').innerText")
    assert f'curl -N -H "Authorization: Bearer $HEADWATER_TOKEN" \'{served.address}' in text
    assert f"headwater tail '{served.address}/api/logs?limit=100'" in text
    console.press("#wire [data-drop]")
    console.until("document.querySelector('#logs .light').dataset.state === 'reconnecting'")
    served.log("one", "two", "three")
    resumed = "document.querySelector('#logs .resumed').textContent"
    console.until(f"{resumed}.includes(': 3 caught up, 0 lost.')")
    console.press("#wire [data-close]")
    assert console.evaluate("document.activeElement.textContent") == "Wire"


def test_the_reader_chooses_light_or_dark(console: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    console.prefer(color_scheme="light")
    light = console.evaluate(ground)
    console.choose("#theme", "dark")
    console.until(f"{ground} !== '{light}'")
    console.reload()
    console.until(ALL_LIVE)
    assert console.evaluate(ground) != light
    console.choose("#theme", "light")
    console.prefer(color_scheme="dark")
    console.until(f"{ground} === '{light}'")


def test_notifications_of_one_team_and_what_is_unread(console: Any, served: Any) -> None:
    titles = "[...document.querySelectorAll('.notices .title')].map((one) => one.lastChild.data)"
    unread = "document.querySelector('#notifications [data-count]').textContent"
    served.notify("First")
    console.until(f"{titles}.length === 1")
    console.press("#notifications [data-read]")
    served.notify("For you")
    served.notify("For the team", team=True)
    console.until(f"{titles}.length === 3 && {unread} === '2'")
    assert console.evaluate("document.title") == "(2) Headwater"
    console.choose("#notifications-filter", served.team_id)
    console.until(f"{titles}.join() === 'For the team'")
    console.choose("#notifications-filter", "personal")
    console.until(f"{titles}.join() === 'For you,First'")
    console.press("#notifications [data-read]")
    console.until(f"{unread} === '' && document.title === 'Headwater'")


FILL = """(title, values) => {
  const panel = [...document.querySelectorAll("#admin .panel")].find(
    (one) => one.querySelector("h2").textContent === title);
  const form = panel.querySelector("form");
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  form.requestSubmit();
}"""
PRESS_TWICE = """(selector) => {
  const button = document.querySelector(selector);
  button.click();
  const asked = [button.textContent, button.closest(".panel").querySelector(".said").textContent];
  button.click();
  return asked;
}"""
SAID = """(title) => [...document.querySelectorAll("#admin .panel")].find(
  (one) => one.querySelector("h2").textContent === title).innerText"""


def test_an_administrator_manages_and_publishes(
    browser: Any, served_alone: Any, sign_in_to: Any
) -> None:
    console = signed_in(browser, served_alone, sign_in_to)
    console.evaluate("void (location.hash = '#admin')")
    console.until("document.querySelectorAll('#admin tbody tr').length > 5")

    def does(title: str, expected: str, /, **values: str) -> None:
        console.run(FILL, title, values)
        console.until(f"({SAID})('{title}').includes({expected!r})")

    does(
        "Users",
        "new@example.org can sign in",
        email="new@example.org",
        password=served_alone.password,
    )
    does("Users", "new@example.org", email="new@example.org", password=served_alone.password)
    does("Teams", "Ferry", name="Ferry")
    users = served_alone.api.get("/api/users").json()["users"]
    teams = served_alone.api.get("/api/teams").json()["teams"]
    console.choose("[aria-label='Team: Members']", teams[-1]["id"])
    console.until(f"({SAID})('Members').includes('Nobody belongs')")
    member = {"user": users[-1]["id"], "role": "team_user"}
    does("Members", "new@example.org is in the team.", **member)
    role = "[aria-label='Role of new@example.org in the team']"
    console.until(f'document.querySelector("{role}")?.value === "team_user"')
    console.choose(role, "team_admin")
    path = f"/api/teams/{teams[-1]['id']}/members"

    def members() -> list[str]:
        return [each["role"] for each in served_alone.api.get(path).json()["members"]]

    waited(lambda: members() == ["team_admin"])
    leave = "[aria-label='Remove new@example.org from the team']"
    console.until(f'document.querySelector("{leave}")')
    console.press(leave)
    waited(lambda: members() == [])
    does("Satellites", "The key of spring-02", name="spring-02")
    renew = "[aria-label='New key for spring-02']"
    console.until(f'document.querySelector("{renew}")')
    console.press(renew)
    console.until(f"({SAID})('Satellites').includes('spring-02 has a new key')")
    does("My API keys", "HEADWATER_TOKEN=hw_", name="laptop")
    for title, what, of in (
        ("Satellites", "spring-02", "the satellite spring-02"),
        ("Teams", "Ferry", "the team Ferry"),
        ("Users", "new@example.org", "new@example.org"),
    ):
        # Once is not enough. Both presses in one turn: a list that is just loaded replaces it.
        remove = f"[aria-label='Remove {of}']"
        console.until(f'document.querySelector("{remove}")')
        asked, said = console.run(PRESS_TWICE, remove)
        assert (asked, said) == ("Remove?", f"Remove {of}? Press again within 5 s.")
        console.until(f"({SAID})('{title}').includes('{what} is gone.')")
    console.until(f"({SAID})('My API keys').includes('laptop')")
    does("Publish a notification", "Published.", title="A test")
    console.evaluate("void (location.hash = '#live')")
    console.until("document.querySelector('.notices').innerText.includes('A test')")
    assert console.faults == []


def test_an_administrator_sees_who_follows_what_and_closes_a_stream(
    console: Any, served: Any
) -> None:
    """Its client misses nothing: the panel says so."""
    console.evaluate("void (location.hash = '#admin')")
    rows = "[...document.querySelectorAll('#admin .wide tbody tr')]"
    logs = f"{rows}.find((row) => row.innerText.includes('/api/logs/stream'))"
    console.until(f"{rows}.length >= 4 && {logs}.innerText.includes({served.email!r})")
    console.until(f"({SAID})('Streams').includes(' open, 0 dropped')")
    console.until(f"({SAID})('Tails').includes('Per second')")
    console.evaluate(f"void ({logs}.querySelector('button').focus())")
    label = console.evaluate("document.activeElement.ariaLabel")
    assert label.startswith("Close /api/logs/stream")
    console.evaluate("void document.querySelector('#admin .wide tbody').setAttribute('old', '')")
    console.until("!document.querySelector('#admin .wide tbody[old]')")
    assert console.evaluate("document.activeElement.ariaLabel") == label
    console.evaluate("void document.activeElement.click()")
    console.until(f"({SAID})('Streams').includes('It is closed.')")
    served.log("meanwhile")
    console.evaluate("void (location.hash = '#live')")
    console.until("document.querySelector('#logs .light').dataset.state === 'live'")
    console.until("document.querySelector('#logs-list').innerText.includes('meanwhile')")
    assert console.faults == []


def test_a_session_is_ended_from_another_one(
    browser: Any, served_alone: Any, sign_in_to: Any
) -> None:
    console = signed_in(browser, served_alone, sign_in_to)
    pair = {"email": served_alone.email, "password": served_alone.password}
    with httpx.Client(base_url=served_alone.address) as other:
        other.post("/api/auth/login", json=pair).raise_for_status()
        console.evaluate("void (location.hash = '#admin')")
        console.reload()
        ends = "[...document.querySelectorAll('[aria-label^=\"End the session of\"]')]"
        console.until(f"{ends}.length > 0")
        console.evaluate(f"void {ends}.at(-1).click()")
        console.until(f"({SAID})('Sessions').includes('That session is ended.')")
        waited(lambda: other.get("/api/users/me").status_code == 401)
    assert console.evaluate("fetch('/api/users/me').then(({ status }) => status)") == 200


def test_it_is_used_without_a_pointer(browser: Any, served: Any) -> None:
    """Sign in, go to the administration and press a button there, by keys alone."""
    page = browser.open(served.address)
    page.until("document.querySelector('#sign-in').checkVisibility()")
    page.until("document.activeElement.id === 'email'")
    page.type(served.email)
    page.key("Tab")
    page.type(served.password)
    page.key("Enter")
    page.until("document.activeElement.id === 'console-title'")

    def tab_to(condition: str) -> None:
        for _ in range(80):
            if page.evaluate(f"Boolean({condition})"):
                return
            page.key("Tab")
        raise AssertionError(f"no Tab leads to {condition}")

    tab_to("document.activeElement.id === 'to-admin'")
    page.key("Enter")
    page.until("document.querySelectorAll('#admin .wide tbody tr').length >= 4")
    tab_to("document.activeElement.ariaLabel?.startsWith('Close /api/logs/stream')")
    page.key("Enter")
    page.until(f"({SAID})('Streams').includes('It is closed.')")


def test_a_user_is_offered_only_what_a_user_may(browser: Any, served_alone: Any) -> None:
    body = {"email": "user@example.org", "password": served_alone.password}
    served_alone.post("/api/users", body)
    page = browser.open(f"{served_alone.address}/#admin")
    page.until("document.querySelector('#sign-in').checkVisibility()")
    page.choose("#email", body["email"])
    page.choose("#password", body["password"])
    page.press("#sign-in button[type=submit]")
    titles = "[...document.querySelectorAll('#admin h2')].map((one) => one.textContent)"
    page.until(f"{titles}.join() === 'My sessions,Satellites,My API keys,Feeds'")
    assert page.evaluate("document.querySelectorAll('#admin form').length") == 1
    # An empty panel says what to type.
    page.evaluate("void (location.hash = '#live')")
    page.until(
        "document.querySelector('#logs [data-note]').innerText.includes('headwater publish')"
    )


def test_charts_show_time_and_gaps(browser: Any, served_alone: Any, sign_in_to: Any) -> None:
    """A satellite that was away leaves a gap, not a line through it."""
    console = signed_in(browser, served_alone, sign_in_to)
    path = "document.querySelector('[data-kind=cpu] .line').getAttribute('d')"
    for minutes, count in ((4, 3), (1, 3)):
        for second in range(count):
            served_alone.report(50.0, ago=minutes * 60 - second * 2)
    console.until(f"{path}.split('M').length === 3")
    assert console.evaluate("document.querySelectorAll('[data-kind=cpu] .mark').length") >= 1
    console.choose("#metrics-range", "360")
    console.until("document.querySelector('[data-kind=cpu] .line').getAttribute('d')")
