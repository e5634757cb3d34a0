"""One browser for all tests here, forgetting everything between them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Server

sys.path.insert(0, str(Path(__file__).parent))

import firefox  # noqa: E402 - found through the line above
from chromium import Chromium, Page, find  # noqa: E402

HERE = Path(__file__).parent

ALL_LIVE = "document.querySelectorAll('.panel .light[data-state=live]').length === 5"


# Before pytest leaves out what is not asked for.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser costs seconds, so all tests here are long ones."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def running_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    executable = find()
    if executable is None:
        pytest.skip("chromium is not installed (apt install chromium)")
    with Chromium(executable, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(running_browser: Chromium) -> Iterator[Chromium]:
    yield running_browser
    running_browser.renew()


@pytest.fixture(scope="session")
def running_firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[firefox.Firefox]:
    executable = firefox.find()
    if executable is None:
        pytest.skip("firefox is not installed (apt install firefox-esr)")
    with firefox.Firefox(executable, tmp_path_factory.mktemp("firefox")) as browser:
        yield browser


@pytest.fixture(params=["chromium", "firefox"])
def any_browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Chromium, then Firefox; each forgets everything between tests."""
    name = "running_browser" if request.param == "chromium" else "running_firefox"
    browser = request.getfixturevalue(name)
    yield browser
    browser.renew()


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


@pytest.fixture
def console(browser: Chromium, served: Any) -> Page:
    """The page at ``/``, signed in, with all its feeds live."""
    page = browser.open(served.address)
    sign_in(page, served)
    page.until(ALL_LIVE)
    return page


@pytest.fixture
def sign_in_to() -> Any:
    return sign_in


def sign_in(page: Page, served: Any, password: str | None = None) -> None:
    """Fill in the form and send it."""
    page.until("document.querySelector('#sign-in').checkVisibility()")
    page.choose("#email", served.email)
    page.choose("#password", password or served.password)
    page.press("#sign-in button")
