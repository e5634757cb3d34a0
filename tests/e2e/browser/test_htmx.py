"""The page on htmx, as it is printed, in Chromium."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.staticfiles import StaticFiles

from support import npm
from support.markdown import ROOT, program
from support.server import serving

pytestmark = pytest.mark.browser

ROWS = "[...document.querySelectorAll('li')].map((row) => row.textContent).join()"


async def test_rows_follow_a_feed_over_a_cut(browser: Any) -> None:
    modules = npm.installed() / "node_modules"
    async with program(ROOT / "docs" / "how-to" / "htmx.md") as names:
        for package in ("htmx.org", "htmx-ext-sse"):
            printed = f"https://unpkg.com/{package}@2/"
            assert printed in names["PAGE"]
            names["PAGE"] = names["PAGE"].replace(printed, f"/{package}/")
            names["app"].mount(f"/{package}", StaticFiles(directory=modules / package))
        async with serving(names["app"]) as port:
            log, live = names["log"], names["live"]
            await log.append("orders", {"city": "Oslo"})
            page = await asyncio.to_thread(browser.open, f"http://127.0.0.1:{port}/")
            await asyncio.to_thread(page.until, f"{ROWS} === 'Oslo'")
            await log.append("orders", {"city": "<b>Bergen"})
            await asyncio.to_thread(page.until, f"{ROWS} === 'Oslo,<b>Bergen'")
            (stream,) = live.streams()
            assert live.close_stream(stream.id)
            await log.append("orders", {"city": "Bodø"})
            await asyncio.to_thread(page.until, f"{ROWS} === 'Oslo,<b>Bergen,Bodø'")
            # One that comes just after another, and its rows.
            for city in ("Moss", "Odda"):
                await log.append("orders", {"city": city})
                await asyncio.to_thread(page.until, f"{ROWS}.endsWith(',{city}')", 5)
            assert page.faults == []
            await asyncio.to_thread(page.close)
