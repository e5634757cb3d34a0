"""What runs hold in memory and leave behind: little, however long they are and however many."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.eventlog import MemoryLog, open_log
from headwater.runs import Run, Runs
from headwater.web.fastapi import LiveRouter
from support.application import Application
from support.http import request
from support.server import serving
from support.until import until
from support.valkey import Valkey


@pytest.mark.parametrize("megabytes", [4, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.timeout(600)
async def test_a_stalled_reader_of_a_large_output_costs_little(
    tmp_path: Path, megabytes: int
) -> None:
    """The output is in the log, and a reader that takes nothing makes nobody keep it."""
    live = LiveRouter()
    pieces = megabytes * 16
    most = 0

    async with open_log(f"sqlite:///{tmp_path}/log.db") as log:
        runs = Runs(log)
        app = Application(live)

        @live.run("/outputs", runs, owner=lambda: "ann")
        async def output(run: Run) -> None:
            for _ in range(pieces):
                await run.delta("x" * 64 * 1024)

        async with serving(app, http="headwater.web.uvicorn:Protocol") as port:
            async with request(port, "/outputs", method="POST") as answer:
                location = answer.headers["location"]
            async with (
                request(port, f"{location}/stream", receive_buffer=4096) as stalled,
                request(port, f"{location}/stream") as reader,
            ):
                await stalled.next()
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                total = 0
                while (message := await reader.next()).event != "end":
                    total += len(message.data)
                    reader.raw = b""
                    most = max(most, *(each.sender.pending for each in live.hub.streams))
                grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
                assert total > megabytes * 1024 * 1024, "the other reader has all of it"
                async with request(port, f"{location}/stream", receive_buffer=4096) as late:
                    await late.next()

                    def stalled_too() -> bool:
                        nonlocal most
                        waiting = [each.sender.pending for each in live.hub.streams]
                        most = max(most, *waiting)
                        return len(waiting) > 1 and min(waiting) > 0

                    await until(stalled_too)
                assert most < 1024 * 1024, f"{most} bytes wait for one client"
                if megabytes == 100:
                    print(f"100 MB of output: the process grew by {grown} MB")
                    assert grown < 64


@pytest.mark.long
async def test_large_events_are_not_kept_for_followers(tmp_path: Path) -> None:
    """Images, or pages of a table: a follower that has them makes nobody keep them."""
    sent, done = asyncio.Event(), asyncio.Event()

    async def export(run: Run) -> None:
        for n in range(40):
            await run.send("page", {"rows": [str(n) * 250_000, {"more": "x" * 250_000}]})
        await run.flush()
        sent.set()
        await done.wait()

    async with open_log(f"sqlite:///{tmp_path}/log.db") as log, Runs(log) as runs:
        tracemalloc.start()
        try:
            run_id = (await runs.create("/a", "ann", handler=export)).state.id
            following = runs.follow(run_id)
            for _ in range(40):
                await anext(following)
            await sent.wait()
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        done.set()
        assert (await anext(following)).name == "end"
        assert kept < 8 * 1024 * 1024, f"{kept} bytes are kept of 20 MB"


@pytest.mark.parametrize("count", [20, pytest.param(100_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(1800)
async def test_forgotten_runs_leave_nothing_in_memory(count: int) -> None:
    """A server that runs for months does not grow by what it has forgotten."""
    log = MemoryLog(max_topics=300_000)
    began = time.monotonic()

    async def quick(run: Run) -> None:
        await run.delta("x" * 100)

    async def batch(size: int) -> list[str]:
        ids = []
        async with Runs(log) as runs:
            for start in range(0, size, 500):
                part = [
                    (await runs.create("/a", f"user {start}", handler=quick)).state.id
                    for _ in range(min(500, size - start))
                ]
                for run_id in part:
                    await until(lambda run_id=run_id: _is_over(runs, run_id))
                ids += part
        return ids

    async def forget(ids: list[str]) -> None:
        async with Runs(log, keep=timedelta(milliseconds=1)) as runs:

            async def gone() -> bool:
                await runs.sweep()
                return all([await runs.state(run_id) is None for run_id in ids])

            await until(gone, 600)
        gc.collect()

    await forget(await batch(min(count, 500)))
    before, resident = sys.getallocatedblocks(), _resident()
    ids = await batch(count)
    full, most = sys.getallocatedblocks(), _resident()
    await forget(ids)
    del ids
    gc.collect()
    after = sys.getallocatedblocks()
    print(
        f"{count} runs in {time.monotonic() - began:.0f} s: {before} blocks of memory before, "
        f"{full} with all of them, {after} once they are forgotten ({resident} to {most} MB)"
    )
    assert after < before * 1.05 + 2000


async def _is_over(runs: Runs, run_id: str) -> bool:
    found = await runs.state(run_id)
    return found is None or found.ended


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024 // 1024


async def test_a_sweep_reads_few_runs_at_once() -> None:
    """Runs of many days end up on one page, and each may hold megabytes of input and result."""
    most = 0

    class Log(MemoryLog):
        async def forget(self, *topics: str) -> None:
            nonlocal most
            most = max(most, sum(topic.startswith("run:runs:r:") for topic in topics))
            await super().forget(*topics)

    async def quick(run: Run) -> None:
        pass

    async with Runs(Log(), keep=timedelta(microseconds=1)) as runs:
        made = [await runs.create("/a", "ann", handler=quick) for _ in range(120)]

        async def gone() -> bool:
            await runs.sweep()
            return all([await runs.state(one.state.id) is None for one in made])

        for one in made:
            await until(lambda one=one: _is_over(runs, one.state.id))
        await until(gone)
    assert 1 < most <= 50


async def test_followers_that_leave_a_quiet_run_leave_nothing() -> None:
    """An agent waits for an hour, and the clients of its run come and go."""
    done = asyncio.Event()

    async def quiet(run: Run) -> None:
        await done.wait()

    async with Runs(MemoryLog()) as runs:
        run_id = (await runs.create("/a", "ann", handler=quiet)).state.id

        async def come_and_go() -> None:
            events = (await runs.reader(run_id)).events()
            async for group in events:
                if not group:
                    break
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])

        stays = asyncio.ensure_future(anext(runs.follow(run_id)))
        for _ in range(50):
            await come_and_go()
        gc.collect()
        before = sys.getallocatedblocks()
        for _ in range(500):
            await come_and_go()
        gc.collect()
        grown = sys.getallocatedblocks() - before
        done.set()
        assert (await stays).name == "end"
    assert grown < 300, f"{grown} blocks of memory for 500 that left"


@pytest.mark.parametrize("count", [20, pytest.param(5000, marks=pytest.mark.soak)])
@pytest.mark.timeout(900)
async def test_forgotten_runs_leave_nothing_in_a_database(tmp_path: Path, count: int) -> None:
    """No rows of theirs, and no topics."""
    file = tmp_path / "log.db"

    async def quick(run: Run) -> None:
        await run.delta("x" * 100)

    async with (
        open_log(f"sqlite:///{file}") as log,
        Runs(log, keep=timedelta(milliseconds=1)) as runs,
    ):
        for start in range(0, count, 200):
            made = await asyncio.gather(
                *(
                    runs.create("/a", "ann", group=f"g{n}", busy="reject", handler=quick)
                    for n in range(start, min(start + 200, count))
                )
            )
            for one in made:
                await until(lambda one=one: _is_over(runs, one.state.id))
        await until(lambda: _swept(runs, file), 120)
        assert await _topics(file) <= {"run:runs:news", "run:runs:beats"}


@pytest.mark.long
async def test_forgotten_runs_leave_no_keys(tmp_path: Path) -> None:
    """Of a Redis, whose memory they were in."""
    server = Valkey(tmp_path)
    await server.start()

    async def quick(run: Run) -> None:
        await run.delta("x" * 100)

    async def gone(runs: Runs) -> bool:
        await runs.sweep()
        async with server.client() as client:
            return await client.dbsize() <= 4

    try:
        async with open_log(server.url) as log:
            async with Runs(log, keep=timedelta(milliseconds=1)) as runs:
                for n in range(50):
                    options = {"key": f"k{n}", "group": f"g{n}", "busy": "reject"}
                    await runs.create("/a", f"user {n}", handler=quick, **options)
                await until(lambda: gone(runs), 60)
    finally:
        server.stop()


async def _swept(runs: Runs, file: Path) -> bool:
    await runs.sweep()
    kinds = ("run:runs:r:", "run:runs:g:", "run:runs:o:")
    return not any(name.startswith(kinds) for name in await _topics(file))


async def _topics(file: Path) -> set[str]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    try:
        async with engine.connect() as connection:
            rows = await connection.execute(sa.text("SELECT name FROM headwater_topics"))
            return {row.name for row in rows}
    finally:
        await engine.dispose()
