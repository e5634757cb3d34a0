"""Tables behind PgBouncer in transaction mode, with what the drivers' documentation asks for."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from headwater.sql import Table
from support.pgbouncer import PROGRAM, PgBouncer
from support.tables import Client, Log, Recorder

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer (Debian's pgbouncer) is missing")

# psycopg, Prepared statements; SQLAlchemy, PostgreSQL, Prepared statement name with PgBouncer.
OPTIONS = {
    "psycopg": {"connect_args": {"prepare_threshold": None}},
    "asyncpg": {
        "poolclass": NullPool,
        "connect_args": {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid.uuid4()}__",
        },
    },
}


@pytest.fixture
def bouncer(postgres, database):
    bouncer = PgBouncer(postgres)
    bouncer.start(database)
    yield bouncer
    bouncer.stop()


@pytest.mark.parametrize("driver", OPTIONS)
async def test_changes_arrive_by_polling(bouncer, postgres, database, driver, caplog):
    engine = create_async_engine(bouncer.url(driver, database), **OPTIONS[driver])
    writer = create_async_engine(postgres.url(database))
    logs, clients = Table(engine, Log), Table(engine, Client)
    recorder = Recorder()
    await logs.origin.attach(recorder)
    try:
        loop = asyncio.get_running_loop()
        for number in range(1, 6):
            async with writer.begin() as connection:
                await connection.execute(sa.insert(Log).values(user_id=number))
            begun = loop.time()
            await recorder.count(number)
            assert loop.time() - begun < 3.0, "it waited for a notification that never comes"
        pages = [logs.where(user_id=n % 7).page(5) for n in range(60)]
        pages += [clients.where(user_id=n).page(5) for n in range(60)]
        found = await asyncio.gather(*pages)
        assert [len(page.changes) for page in found[:7]] == [0, 1, 1, 1, 1, 1, 0]
        async with asyncio.timeout(20):
            while "notifications of the database do not arrive" not in caplog.text:
                async with writer.begin() as connection:
                    await connection.execute(sa.insert(Log).values(user_id=9))
                await recorder.count(len(recorder.changes) + 1)
    finally:
        await logs.origin.detach()
        await engine.dispose()
        await writer.dispose()
