"""Schemas that change under the pooled connections of a live query."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from sql.query import shop
from support.tables import Recorder


@pytest.mark.parametrize("driver", [pytest.param("psycopg", marks=pytest.mark.long), "asyncpg"])
async def test_a_type_that_changes_under_pooled_connections(postgres, driver, caplog):
    url = sa.make_url(postgres.url(name := postgres.database()))
    engine = create_async_engine(url.set(drivername=f"postgresql+{driver}"), pool_size=5)
    query, sink = shop.orders(engine), Recorder()
    await shop.made(engine)
    for _ in range(10 if driver == "psycopg" else 1):
        await asyncio.gather(*(query.where(tenant=1).page(9) for _ in range(4)))
    await query.origin.attach(sink)
    await shop.write(engine, sa.text("ALTER TABLE customers ALTER COLUMN name TYPE varchar(90)"))
    await shop.write(engine, sa.text("ALTER TABLE lines ALTER COLUMN total TYPE bigint"))
    await asyncio.gather(*(query.where(tenant=1).page(9) for _ in range(4)))
    await query.origin.detach()
    await shop.write(engine, sa.text("ALTER TABLE lines ALTER COLUMN total TYPE numeric"))
    await asyncio.gather(*(query.where(tenant=1).page(9) for _ in range(4)))
    assert "Traceback" not in caplog.text
    await engine.dispose()
    postgres.drop(name)
