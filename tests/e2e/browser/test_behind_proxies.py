"""Chromium's own EventSource behind each proxy of the documentation, over a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fronts import FRONTS, Front, certificate

from support.until import waited

pytestmark = pytest.mark.browser

SIGN_IN = """(email, password) => fetch("/api/auth/login", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ email, password }),
}).then(({ status }) => status)"""
FOLLOW = """
  globalThis.got = [];
  globalThis.snapshots = 0;
  globalThis.failures = 0;
  globalThis.source = new EventSource("/api/logs/stream");
  source.addEventListener("snapshot", () => { snapshots += 1; });
  source.addEventListener("error", () => { failures += 1; });
  source.addEventListener("log", ({ data }) => got.push(JSON.parse(data).message));
  new Promise((resolve) => source.addEventListener("open", () => resolve(true)))
"""


@pytest.fixture
def fronts(served_alone: Any, tmp_path: Path) -> Iterator[list[Front]]:
    """All proxies before one server: a start of it takes longer than one of theirs."""
    for each in FRONTS:
        each.program()
    port = urlsplit(served_alone.address).port
    pem = certificate(tmp_path)
    fronts = [each(tmp_path / each.package, pem, port) for each in FRONTS]
    try:
        for front in fronts:
            front.begin()
        for front in fronts:
            waited(front.reached, explain=lambda front=front: front.log)
        yield fronts
    finally:
        for front in fronts:
            front.kill()


def page_behind(browser: Any, front: Front, served: Any) -> Any:
    page = browser.open()
    page.call("Security.setIgnoreCertificateErrors", ignore=True)
    page.go(f"{front.address}/healthz")
    assert page.run(SIGN_IN, served.email, served.password) == 200, front.name
    assert page.evaluate(FOLLOW)
    page.until("snapshots === 1")
    return page


def test_an_event_source_lives_on_over_a_restart(
    browser: Any, served_alone: Any, fronts: list[Front]
) -> None:
    """Its proxy's 502 would end it for good; the page's configurations answer 200 instead."""
    pages = [page_behind(browser, front, served_alone) for front in fronts]
    served_alone.log("one")
    for page in pages:
        page.until("got.join() === 'one'")
    served_alone.kill()
    for page in pages:
        # The second failure is of a reconnect that met the proxy alone.
        page.until("failures >= 2")
    served_alone.insert("missed")
    served_alone.start()
    served_alone.log("next")
    for page in pages:
        page.until("got.join() === 'one,missed,next'")
        assert page.evaluate("snapshots") == 1
