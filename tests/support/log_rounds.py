"""Rounds in which a log goes back: followers in two other processes, and clients that are away."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from headwater.errors import PositionError, SourceUnavailableError
from headwater.eventlog import EventLog, Offset, Topic
from headwater.testing._eventlog._faults import FaultContract
from headwater.testing._eventlog._harness import read_all
from support.until import outside, succeeds

ROUNDS = int(os.environ.get("HEADWATER_FAULT_ROUNDS", "10"))

# Follows topic t until its input ends. It prints what comes, line by line.
FOLLOWER = """
import asyncio, json, sys
from headwater.eventlog import open_log

class Printing:
    def deliver(self, records):
        print(json.dumps([[str(one.offset), one.data["n"]] for one in records]), flush=True)
    def reset(self, reason, bounds):
        print(json.dumps({"reset": reason, "latest": str(bounds.latest)}), flush=True)

async def main(url):
    async with open_log(url) as log:
        await log.follow("t", Printing())
        print("null", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(sys.argv[1]))
"""


class Process:
    """A follower in another process.

    Attributes:
        records: offset and number of what came since the last reset.
        latest: where the last reset was; None before the first.
        came: how many events came in all.
        resets: how many.
    """

    def __init__(self) -> None:
        self.records: list[tuple[Offset, int]] = []
        self.latest: Offset | None = None
        self.came = self.resets = 0
        self.news = asyncio.Event()

    async def read(self, lines: asyncio.StreamReader) -> None:
        async for line in lines:
            found = json.loads(line)
            if isinstance(found, dict):
                self.records.clear()
                self.latest = Offset.parse(found["latest"])
                self.resets += 1
            elif found:
                self.records += [(Offset.parse(offset), n) for offset, n in found]
                self.came += len(found)
            self.news.set()

    async def more(self, count: int) -> None:
        """Wait for so many more events."""
        wanted = self.came + count
        while self.came < wanted:
            self.news.clear()
            await self.news.wait()


@asynccontextmanager
async def followed(url: str) -> AsyncIterator[Process]:
    """A process that follows the log at this address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FOLLOWER, url, stdin=-1, stdout=-1, limit=1 << 24
    )
    assert process.stdin is not None
    assert process.stdout is not None
    found = Process()
    reading = None
    try:
        assert await process.stdout.readline() == b"null\n"
        reading = asyncio.create_task(found.read(process.stdout))
        yield found
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            if reading is not None:
                await reading


async def resumed(log: EventLog, epoch: str, place: str) -> list[int] | None:
    """What a client gets that comes back to this place; None if it is reset."""
    topic, items = Topic(log, "t"), list[int]()
    try:
        page = await topic.page(1000, after=await topic.locate(epoch, place))
        items += [change.item["n"] for change in page.changes]
        while page.has_more:
            page = await topic.page(1000, after=page.end)
            items += [change.item["n"] for change in page.changes]
    except PositionError:
        return None
    return items


async def rounds(
    kit: FaultContract, url: str, writers: int, *, streams: bool, exact: bool = True
) -> str:
    """Let the log go back again and again while it is written to; fails where anything is wrong.

    Arguments:
        kit: the engine's ways to open a log and to go back.
        url: the log's address for other processes.
        writers: tasks that append.
        streams: follow in two other processes. Otherwise only writers can notice.
        exact: a client that comes back is reset where it would miss what was lost, also if the
            place that it has a position of still stands.

    Returns the figures as a sentence.
    """
    async with AsyncExitStack() as stack:
        log = await kit.open()
        stack.push_async_callback(log.close)
        other = await stack.enter_async_context(kit.reopened(log))
        following = [await stack.enter_async_context(followed(url)) for _ in range(2 * streams)]
        count, stopped, appended = itertools.count(), False, asyncio.Event()
        acknowledged: list[int] = []

        async def insist() -> int:
            number = next(count)
            await succeeds(
                lambda: other.append("t", {"n": number}, key=f"round-{number}"),
                SourceUnavailableError,
                patience=60,
            )
            acknowledged.append(number)
            appended.set()
            return number

        async def leave() -> None:
            """A client leaves, with a position. What is asked for from here on comes after it."""
            page = await succeeds(lambda: Topic(log, "t").page(1), SourceUnavailableError)
            away.append((page.epoch, str(page.end), next(count)))

        async def write() -> None:
            while not stopped:
                await insist()

        def arrived(number: int) -> bool:
            return all(one.records and one.records[-1][1] == number for one in following)

        writing = [asyncio.create_task(write()) for _ in range(writers)]
        for task in writing:
            stack.callback(task.cancel)
        away: list[tuple[str, str, int]] = []
        for _ in range(ROUNDS):
            async with asyncio.timeout(60):
                await leave()
                copy = await kit.keep_copy(log)
                for one in following:
                    await one.more(5)
                for _ in range(5):
                    appended.clear()
                    await appended.wait()
                await leave()
                await kit.go_back(log, copy)
        stopped = True
        await asyncio.gather(*writing)
        async with asyncio.timeout(60):
            while True:  # an event that a reset covers is not delivered
                last = await insist()
                with suppress(TimeoutError):  # a process that polls reads once a second
                    await outside(partial(arrived, last), 2)
                    break
        there = [(one.offset, one.data["n"]) for one in await read_all(log, "t")]
        for one in following:
            wanted = [item for item in there if one.latest is None or item[0] > one.latest]
            assert one.records == wanted, "a stream has not what the log has"
        tail = [n for _, n in there]
        reset = 0
        for epoch, place, since in away:
            found = await resumed(log, epoch, place)
            reset += found is None
            if found is not None:
                assert tail[len(tail) - len(found) :] == found, "another log's events"
                missing = {n for n in acknowledged if n > since} - set(found)
                assert not exact or not missing, f"a client misses {len(missing)} events"
        came = sum(one.came for one in following)
        resets = sum(one.resets for one in following)
        return (
            f"{ROUNDS} rounds, {writers} writers, {last + 1} acknowledged, {came} delivered, "
            f"{resets} resets of {len(following)} processes, {reset} of {len(away)} clients reset"
        )
