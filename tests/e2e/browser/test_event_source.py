"""Chromium's own EventSource on a feed, without any code of ours in the page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from line import Line

from support.markdown import ROOT, blocks
from support.until import waited

pytestmark = [pytest.mark.browser, pytest.mark.long]

FOLLOW = """
  globalThis.got = [];
  globalThis.snapshots = 0;
  globalThis.source = new EventSource("/api/logs/stream");
  source.addEventListener("snapshot", () => { snapshots += 1; });
  source.addEventListener("log", (event) => {
    got.push([JSON.parse(event.data).message, event.lastEventId]);
  });
  new Promise((resolve) => source.addEventListener("open", () => resolve(true)))
"""
SIGN_IN = """(email, password) => fetch("/api/auth/login", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ email, password }),
})"""
MESSAGES = "got.map(([message]) => message).join()"


def test_it_receives_reconnects_and_resumes(browser: Any, served: Any) -> None:
    """The standard's client needs nothing but the address."""
    page = browser.open(f"{served.address}/healthz")
    page.run(SIGN_IN, served.email, served.password)
    assert page.evaluate(FOLLOW)
    page.until("snapshots === 1")
    served.log("one", "two")
    page.until(f"{MESSAGES} === 'one,two'")

    for end in (served.stop, served.kill):
        end()
        page.until("source.readyState === EventSource.CONNECTING")
        served.insert("missed")
        served.start()
        served.log("next")
        page.until("got.at(-1)[0] === 'next'")
        page.evaluate("got.at(-1)[0] = 'seen'")

    assert page.evaluate(MESSAGES) == "one,two,missed,seen,missed,seen"
    positions = page.evaluate("got.map(([, position]) => position)")
    assert all(positions)
    assert len(set(positions)) == 6
    assert page.evaluate("snapshots") == 1


def test_one_that_a_502_closed_is_made_anew_as_the_page_on_proxies_shows(
    browser: Any, served: Any
) -> None:
    (shown,) = (b for b in blocks(ROOT / "docs/how-to/proxies.md") if b.language == "js")
    with Line(urlsplit(served.address).port) as line:
        page = browser.open(f"{line.address}/healthz")
        page.run(SIGN_IN, served.email, served.password)
        page.evaluate(
            f"{shown.code}\nglobalThis.got = [];"
            "follow('/api/logs/stream', ({ data }) => got.push(JSON.parse(data).message));"
        )
        waited(lambda: "\nheadwater_streams_open 1" in served.api.get("/metrics").text)
        served.log("one")
        page.until("got.join() === 'one'")
        line.bad = True
        line.cut()
        served.log("missed")
        page.until("performance.getEntriesByType('resource').length > 2")
        line.bad = False
        page.until("got.join() === 'one,missed'")
