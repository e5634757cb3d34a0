"""Many streams of one feed are written to together, and each still has each item once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import BaseModel

from headwater.delivery._uring import Uring
from headwater.eventlog import MemoryLog
from headwater.sql import Table, sqlite_engine
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving
from support.tables import Base, Log
from support.until import until

STREAMS, EVENTS = 40, 400


def allowed() -> bool:
    try:
        Uring().close()
    except OSError:
        return False
    return True


def rings() -> int:
    """How many of io_uring this process has."""
    names = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    return sum("io_uring" in str(name.readlink()) for name in names if name.is_symlink())


async def opened(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, b"GET /api/things/stream HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


async def read(client: socket.socket, until: bytes) -> list[int]:
    """The numbers of the items that came, up to the last one."""
    raw = b""
    while until not in raw:
        data = await asyncio.get_running_loop().sock_recv(client, 65536)
        assert data, "the stream ended"
        raw += data
    return [int(found) for found in re.findall(rb'"n":(\d+),', raw)]


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="it counts descriptors in Linux's /proc"
)
@pytest.mark.parametrize("io_uring", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_each_item_once_also_beside_those_who_stop_reading_or_leave(io_uring):
    held = rings()
    log = MemoryLog()
    live = LiveRouter(heartbeat=0.02, io_uring=io_uring)
    app = Application(live, prefix="/api")

    @live.feed("/things", item=dict, event="thing")
    async def things() -> Source:
        return log.topic("things")

    async with serving(app, http="headwater.web.uvicorn:Protocol") as port:
        clients = [await opened(port) for _ in range(STREAMS)]
        await until(lambda: live.stats.open == STREAMS)
        slow, leaving, *others = clients
        end = b'"n":%d,' % (EVENTS - 1)
        reading = [asyncio.create_task(read(client, end)) for client in others]
        for number in range(EVENTS):
            item = {"n": number, "text": "x" * (5000 if number % 3 else 20)}
            await log.append("things", [item])
            if number % 7 == 0:
                await asyncio.sleep(0.001)  # some clients get a turn
            if number == EVENTS // 2:
                leaving.close()
        async with asyncio.timeout(30):
            for found in await asyncio.gather(*reading):
                assert found == list(range(EVENTS))
            assert await read(slow, end) == list(range(EVENTS))
        assert (rings() > held) == (io_uring and allowed())
        for client in (slow, *others):
            client.close()
        await until(lambda: live.stats.open == 0)
    assert rings() == held


class Line(BaseModel):
    id: int
    message: str


class Short(BaseModel):
    id: int


@pytest.mark.parametrize("io_uring", [True, False])
async def test_a_row_that_is_for_many_selections_comes_once_to_each_in_its_feeds_shape(
    tmp_path, io_uring
):
    path = tmp_path / "data.db"
    engine = sqlite_engine(f"sqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    table, live = Table(engine, Log), LiveRouter(io_uring=io_uring)
    app = Application(live, prefix="/api")

    @live.feed("/lines/{user}", item=Line, event="line")
    async def lines(user: int) -> Source:
        return table.where(user_id=user) | table.where(level="info")

    @live.feed("/shorts/{user}", item=Short, event="short")
    async def shorts(user: int) -> Source:
        return table.where(user_id=[user, user + 1]) | table.where(level="info")

    users = range(12)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(app, http="headwater.web.uvicorn:Protocol"))
        streams = {}
        for kind in ("lines", "shorts"):
            for user in users:
                answer = request(port, f"/api/{kind}/{user}/stream")
                stream = await stack.enter_async_context(answer)
                assert (await stream.next()).event == "snapshot"
                streams[kind, user] = stream
        await until(lambda: live.stats.open == len(streams))
        expected = {name: [] for name in streams}
        number, chance = 0, random.Random(3)
        database = sqlite3.connect(path, isolation_level=None)
        for _ in range(40):
            database.execute("BEGIN IMMEDIATE")
            for _ in range(chance.choice([1, 1, 2, 30])):
                number += 1
                level, user = chance.choice(["info", "error"]), chance.choice(users)
                row = (number, user, level, f"m{number}")
                database.execute(
                    "INSERT INTO logs (id, user_id, level, message) VALUES (?, ?, ?, ?)", row
                )
                for kind, reader in streams:
                    wanted = {reader} if kind == "lines" else {reader, reader + 1}
                    if level == "info" or user in wanted:
                        item = {"id": number}
                        if kind == "lines":
                            item["message"] = f"m{number}"
                        expected[kind, reader].append((kind[:-1], item))
            database.execute("COMMIT")
            await asyncio.sleep(chance.choice([0, 0.005]))
        database.close()
        async with asyncio.timeout(30):
            for name, stream in streams.items():
                came = [await stream.next() for _ in expected[name]]
                assert [(each.event, json.loads(each.data)) for each in came] == expected[name]
    await engine.dispose()
