"""Schemas that change under the pooled connections of a live query."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.errors import PositionError
from headwater.sql import LiveQuery, track, track_table
from sql.query import shop
from support.tables import Recorder


class Base(DeclarativeBase):
    """Apart from the shop, whose columns other tests make links of: their type cannot change."""


@track(keyed=True)
class Payment(Base):
    __tablename__ = "payments"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    name: Mapped[str]
    total: Mapped[int]


@pytest.mark.parametrize("driver", [pytest.param("psycopg", marks=pytest.mark.long), "asyncpg"])
async def test_a_type_that_changes_under_pooled_connections(postgres, driver, caplog):
    url = sa.make_url(postgres.url(name := postgres.database()))
    engine = create_async_engine(url.set(drivername=f"postgresql+{driver}"), pool_size=5)
    selected = select(Payment.id, Payment.tenant, Payment.name, Payment.total)
    query, sink = LiveQuery(engine, selected, key=["id"], where=["tenant"]), Recorder()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await shop.write(engine, insert(Payment).values(id=1, tenant=1, name="Ada", total=5))
    for _ in range(10 if driver == "psycopg" else 1):
        await asyncio.gather(*(query.where(tenant=1).page(9) for _ in range(4)))
    await query.origin.attach(sink)
    await shop.write(engine, sa.text("ALTER TABLE payments ALTER COLUMN name TYPE varchar(90)"))
    await shop.write(engine, sa.text("ALTER TABLE payments ALTER COLUMN total TYPE bigint"))
    await asyncio.gather(*(query.where(tenant=1).page(9) for _ in range(4)))
    await query.origin.detach()
    await shop.write(engine, sa.text("ALTER TABLE payments ALTER COLUMN total TYPE numeric"))
    await asyncio.gather(*(query.where(tenant=1).page(9) for _ in range(4)))
    assert "Traceback" not in caplog.text
    await engine.dispose()
    postgres.drop(name)


async def test_writes_go_on_where_a_link_was_renamed(postgres):
    metadata, engine = sa.MetaData(), create_async_engine(postgres.url(name := postgres.database()))
    table = sa.Table(
        "notes",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("size", sa.Integer),
    )
    track_table(table, keyed=True)
    source = LiveQuery(engine, select(table).where(table.c.size > 0), key=["id"]).where()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await shop.write(engine, insert(table).values([{"id": n, "size": n} for n in (1, 2, 3)]))
    page = await source.page(9)
    await shop.write(
        engine,
        sa.text("ALTER TABLE notes RENAME size TO width"),
        sa.text("DELETE FROM notes WHERE id = 1"),
        sa.text("UPDATE notes SET width = 0 WHERE id = 2"),
        sa.text("ALTER TABLE notes RENAME width TO size"),
    )
    with pytest.raises(PositionError, match="another"):
        await source.locate(page.epoch, str(page.end))
    assert [change.item["id"] for change in (await source.page(9)).changes] == [3]
    await engine.dispose()
    postgres.drop(name)
