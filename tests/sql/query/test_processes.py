"""Live queries over HTTP: two server processes that are killed, and a database that restarts."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import sqlite_engine
from sql.query import shop
from sql.query.test_delivery import Writer
from support.http import request
from support.postgres import Postgres
from support.processes import Program
from support.until import outside

TESTS = Path(__file__).resolve().parents[2]
TENANTS = (1, 2, 3)


class Shop(Program):
    """One server process."""

    def command(self):
        return [sys.executable, "-m", "uvicorn", "sql.query.shop_app:app", "--app-dir", str(TESTS),
                "--port", str(self.port), "--log-level", "warning"]  # fmt: skip

    async def start(self):
        try:
            await super().start()
        except TimeoutError:
            # On a busy machine the imports alone take longer.
            await outside(self._up, 60)


class Client:
    """Follows one tenant, on whichever server answers, and resumes."""

    def __init__(self, tenant, ports, pick):
        self.tenant, self.ports, self.pick = tenant, ports, pick
        self.items, self.last, self.keys = {}, None, set()
        self.connects = self.resets = self.events = 0

    async def run(self):
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError, AssertionError):
                await self.follow()
            await asyncio.sleep(0.05)  # as a client that waits before it reconnects

    async def follow(self):
        headers = {"Accept": "text/event-stream"}
        if self.last is not None:
            headers["Last-Event-ID"] = self.last
        path = f"/api/orders/stream?tenant={self.tenant}"
        async with request(self.pick.choice(self.ports), path, headers=headers) as answer:
            if answer.status != 200:
                return
            self.connects += 1
            while True:
                if self.pick.random() < 0.01:
                    return
                self.take(await answer.next())

    def take(self, message):
        self.last = message.last_event_id or self.last
        self.events += 1
        data = json.loads(message.data) if message.data else {}
        if message.event == "snapshot":
            self.items = {one["id"]: one for one in data["orders"]}
            self.keys |= set(self.items)
        elif message.event == "order":
            self.items[data["id"]] = data
            self.keys.add(data["id"])
        elif message.event == "order_removed":
            self.items.pop(data["id"], None)
            self.keys.add(data["id"])
        elif message.event == "reset":
            self.resets += 1


async def run(folder, url, engine, seconds, restart=None):
    os.environ["SHOP_DATABASE"] = url
    servers = [Shop(folder / f"server{n}") for n in range(2)]
    pick = random.Random(7)
    await asyncio.gather(*(server.start() for server in servers))
    clients = [Client(t, [one.port for one in servers], pick) for t in TENANTS * 4]
    following = [asyncio.ensure_future(client.run()) for client in clients]
    writer, writes, kills = Writer(engine, 7), 0, 0
    loop = asyncio.get_running_loop()
    end, restarted = loop.time() + seconds, False
    try:
        while loop.time() < end:
            await writer.step()
            writes += 1
            if pick.random() < 0.01:
                server = pick.choice(servers)
                server.kill()
                kills += 1
                await server.start()
            if restart is not None and not restarted and loop.time() > end - seconds / 2:
                restarted = True
                await asyncio.to_thread(restart)
                await engine.dispose()
            await asyncio.sleep(0.002)  # some hundred transactions a second
        query = shop.orders(engine)
        for client in clients:
            page = await query.where(tenant=client.tenant).page(100_000)
            expected = {c.item["id"]: dict(c.item) for c in page.changes}
            try:
                await outside(lambda c=client, e=expected: c.items == e, 60)
            except TimeoutError:
                wrong = {
                    key: (client.items.get(key), expected.get(key))
                    for key in {*client.items, *expected}
                    if client.items.get(key) != expected.get(key)
                }
                raise AssertionError(
                    f"tenant {client.tenant}, {client.resets} resets, at {client.last}: {wrong}"
                ) from None
            foreign = {key for key in client.keys if client.tenant not in writer.ever[key]}
            assert not foreign
        print(
            f"{writes} transactions, {kills} kills, "
            f"{sum(c.connects for c in clients)} connects of {len(clients)} streams, "
            f"{sum(c.events for c in clients)} events, {sum(c.resets for c in clients)} resets"
        )
        assert kills
    finally:
        for task in following:
            task.cancel()
        for server in servers:
            server.kill()


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_killed_servers_on_sqlite(tmp_path):
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = sqlite_engine(url)
    shop.orders(engine)
    await shop.made(engine)
    await run(tmp_path, url, engine, 40)
    await engine.dispose()


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_killed_servers_and_a_restart_on_postgresql(tmp_path):
    server = Postgres()
    server.create()
    server.start()
    try:
        url = server.url(server.database())
        engine = create_async_engine(url, pool_pre_ping=True)
        shop.orders(engine)
        await shop.made(engine)

        def restart():
            server.stop(signal.SIGQUIT)
            server.start()

        await run(tmp_path, url, engine, 60, restart)
        await engine.dispose()
    finally:
        server.remove()
