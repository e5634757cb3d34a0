"""A relay into Valkey and NATS: what these servers forget, and what it does while they are away."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from headwater.errors import EncodingError, RelayStoppedError
from headwater.eventlog import open_log
from headwater.relay._ledger import RELAYS
from support.nats import Nats
from support.relays import Moved, Troubled, holding, running
from support.until import outside
from support.valkey import Valkey

pytestmark = pytest.mark.long


@pytest.fixture(params=[Valkey, Nats])
async def server(request, tmp_path):
    server = request.param(tmp_path / "server")
    await server.start()
    yield server
    server.stop()


@pytest.fixture
async def log(server):
    async with open_log(server.url) as log:
        yield log


@pytest.fixture
async def there(engine, log):
    """A database in SQLite and that log."""
    return Moved(engine, log)


async def test_a_relay_waits_for_a_server_that_is_away(server, there):
    """Nothing is lost of what is committed meanwhile."""
    async with running(relay := there.relay(batch=10)):
        await there.add(*(f"m{n}" for n in range(25)))
        await there.until(*(f"m{n}" for n in range(25)))
        server.kill()
        await there.add(*(f"m{n}" for n in range(25, 50)))
        await outside(lambda: not relay.holds)
        await server.start()
        await outside(lambda: relay.relayed >= 50)
        await there.until(*(f"m{n}" for n in range(50)))


async def test_an_append_is_found_although_its_key_is_forgotten(there, server, tmp_path):
    """Keys are known for an hour or a day; who dies on Friday is started on Monday."""
    address = f"{server.url}?keys_kept=5" if isinstance(server, Valkey) else server.url
    async with open_log(address) as short:
        trouble = Troubled(short)
        trouble.mute = True
        await there.add(*"ab")
        task = asyncio.create_task(there.relay(log=trouble, lease=0.4).run())
        async with asyncio.timeout(20):
            await trouble.made.wait()
        task.cancel()
        await asyncio.wait([task])
    key = (await there.state()).key
    if isinstance(server, Valkey):
        async with server.client() as client:
            assert isinstance(client, Redis)
            assert await client.delete(f"headwater:k:moved {key}") == 1
    await there.add("c")
    async with running(there.relay()):
        await there.until(*"abc")


async def test_a_server_that_was_wiped_ends_the_relay(server, there):
    await there.add("a")
    task = asyncio.create_task(there.relay().run())
    await there.until("a")
    if isinstance(server, Valkey):
        async with server.client() as client:
            await client.flushall()
    else:
        await server.wipe()
    with pytest.raises(RelayStoppedError, match="or was wiped"):
        async with asyncio.timeout(30):
            await task


async def test_more_rows_than_one_append_takes(there):
    """On NATS a batch is 1,000 events at most, one of which is its key."""
    rows = [f"m{n}" for n in range(2500)]
    await there.add(*rows)
    async with running(there.relay(batch=1000)):
        await there.count(2500)
    assert await there.messages() == rows


async def test_a_row_that_is_too_large_for_a_smaller_server_is_named(engine, tmp_path):
    """Once it is corrected the relay goes on: no append was prepared that can never be made."""
    (tmp_path / "server.conf").write_text("max_payload: 65536\n")
    server = Nats(tmp_path, "--config", str(tmp_path / "server.conf"))
    await server.start()
    try:
        async with open_log(server.url) as log:
            there = Moved(engine, log)
            await there.add("a", "x" * 70_000)
            fresh = open_log(server.url)
            with pytest.raises(EncodingError, match='"id": "2"'):
                async with asyncio.timeout(20):
                    await there.relay(log=fresh).run()
            await fresh.close()
            await there.run("UPDATE logs SET message = 'b'")
            async with running(there.relay()):
                await there.until("a", "b")
    finally:
        server.stop()


async def test_a_holder_that_was_asleep_does_no_harm(there):
    """Its append arrives when its successor has made it: the key is known."""
    trouble = Troubled(there.log)
    trouble.gate.clear()
    await there.add(*"ab")
    async with running(there.relay(log=trouble)):
        async with asyncio.timeout(20):
            await trouble.asked.wait()
        await there.run(
            RELAYS.update().values(holder=None, fence=RELAYS.c.fence + 1, beat=RELAYS.c.beat + 1)
        )
        async with running(other := there.relay()):
            await holding(other)
            await there.until(*"ab")
            trouble.gate.set()
            await there.add("c")
            await there.until(*"abc")
