"""Followers of runs whose connections are cut at random, on two workers of one log."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from headwater.eventlog import EventLog, open_log
from headwater.web.fastapi import LiveRouter, Run, Runs, StreamLimits
from support.application import Application
from support.http import request
from support.server import serving


def worker(log: EventLog) -> Application:
    """An application whose run writes numbers at an uneven pace."""
    live = LiveRouter(limits=StreamLimits(per_address=None))
    runs = Runs(log)

    @live.run("/counts", runs, owner=lambda: "ann")
    async def count(run: Run, words: int = 0) -> None:
        for n in range(words):
            await run.delta(f"{n} ")
            if n % 7 == 0:
                await run.send("mark", n)
            await asyncio.sleep(random.choice((0, 0, 0.01)))  # the pace of a model

    return Application(live)


class Follower:
    """A client that keeps what it was told, and cuts its connection at random."""

    def __init__(self, ports: list[int], path: str, cuts: int) -> None:
        self.text = ""
        self.marks: list[str] = []
        self.end = ""
        self.cuts = cuts
        self._ports = ports
        self._path = path
        self._last = ""

    async def follow(self) -> None:
        """Follow to the end, over as many connections as it takes."""
        while not self.end:
            headers = {"Last-Event-ID": self._last} if self._last else {}
            port = random.choice(self._ports)
            async with request(port, f"{self._path}/stream", headers=headers) as answer:
                assert answer.status == 200
                left = random.randint(1, 6) if self.cuts > 0 else None
                while left is None or left > 0:
                    message = await answer.next()
                    if message.event == "delta":
                        self.text += message.data[len('{"text":"') : -len('"}')]
                    elif message.event == "mark":
                        self.marks.append(message.data)
                    elif message.event == "end":
                        self.end = message.data
                        break
                    else:
                        assert message.event == "run", message.event
                        continue
                    self._last = message.last_event_id
                    left = None if left is None else left - 1
                self.cuts -= 1


@pytest.mark.parametrize(
    ("followers", "cuts", "words"),
    [(6, 5, 300), pytest.param(100, 10, 3000, marks=pytest.mark.soak)],
)
@pytest.mark.timeout(600)
async def test_nothing_is_lost_doubled_or_reordered(
    tmp_path: Path, followers: int, cuts: int, words: int
) -> None:
    """Whichever worker a client comes back to, and whenever it was cut."""
    async with AsyncExitStack() as stack:
        ports = []
        for _ in range(2):
            log = await stack.enter_async_context(open_log(f"sqlite:///{tmp_path}/log.db"))
            ports.append(await stack.enter_async_context(serving(worker(log))))
        start = f"/counts?words={words}"
        async with request(ports[0], start, method="POST") as answer:
            path = answer.headers["location"]
        clients = [Follower(ports, path, cuts) for _ in range(followers)]
        async with asyncio.timeout(500):
            await asyncio.gather(*(client.follow() for client in clients))
        wanted = "".join(f"{n} " for n in range(words))
        marks = [str(n) for n in range(0, words, 7)]
        for client in clients:
            assert client.text == wanted
            assert client.marks == marks
            assert client.end == '{"state":"done"}'
