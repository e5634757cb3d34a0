"""Two servers behind a proxy are restarted one after the other, under 2,000 streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fronts import FRONTS, Front, certificate
from returning import Flock, Returning, by_second
from running import Running
from test_behind_proxies import page_behind

from support.until import outside

pytestmark = [pytest.mark.browser, pytest.mark.soak, pytest.mark.timeout(600)]

CLIENTS = 2_000
PAGES = 3
# Seconds between two lines: some while each server is away. Each is 2,000 events for this process.
PACE = 2.0
# Seconds that this process may stand still where returns are judged by when they came.
STALL = 0.25


@pytest.fixture
def two(seeded: Path, tmp_path: Path) -> Any:
    servers = [Running(seeded, tmp_path) for _ in range(2)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.close()


@pytest.fixture(params=FRONTS, ids=[each.package for each in FRONTS])
async def front(
    request: pytest.FixtureRequest, tmp_path: Path, two: list[Running]
) -> AsyncIterator[Front]:
    request.param.program()
    pem = certificate(tmp_path)
    front = request.param(tmp_path / "front", pem, *(server.port for server in two))
    await front.start()
    yield front
    front.kill()


async def test_nobody_loses_a_line_and_nobody_ends(
    browser: Any, two: list[Running], front: Front, request: pytest.FixtureRequest
) -> None:
    shares: list[float] = []
    tls, written, done = front.tls(), 0, asyncio.Event()
    clients = [
        Returning(front.port, "/api/logs/stream", two[0].headers, tls) for _ in range(CLIENTS)
    ]

    async def write() -> None:
        nonlocal written
        while not done.is_set():
            await asyncio.to_thread(two[0].insert, str(written))
            written += 1
            await asyncio.sleep(PACE)  # the pace of the lines

    pages = [await asyncio.to_thread(page_behind, browser, front, two[0]) for _ in range(PAGES)]
    async with Flock(clients) as flock:
        await outside(flock.all_live, 120)
        writing = asyncio.create_task(write())
        for server in two:
            began = time.monotonic()
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await outside(flock.all_live, 120)
            for kind, found in (("due", flock.planned(began)), ("back", flock.histogram(began))):
                count = sum(found.values())
                most = max(found.values()) / count
                print(
                    f"| {request.node.callspec.id} | {count} of {CLIENTS} {kind} | at most "
                    f"{most:.1%} in a tenth of a second | by second: {by_second(found)} | "
                    f"this process stood still for {flock.stalled(began):.2f} s |"
                )
                # Whoever stands still finds all together that came meanwhile.
                if kind == "due" or flock.stalled(began) < STALL:
                    shares.append(most)
        done.set()
        await writing
        await asyncio.to_thread(two[0].insert, "the end")
        await outside(lambda: all(each.messages[-1:] == ["the end"] for each in clients), 60)
    expected = [*(str(number) for number in range(written)), "the end"]
    for each in clients:
        assert each.refused is None
        assert each.messages == expected
        assert each.snapshots == 1
    for page in pages:
        await asyncio.to_thread(page.until, "got.at(-1) === 'the end'")
        assert page.evaluate("got") == expected
        assert page.evaluate("snapshots") == 1
    assert max(shares) <= 0.1
