"""A shop: orders of customers of tenants, with their lines, and live queries over them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from headwater.sql import track
from headwater.sql.query._live import LiveQuery

DRIVERS = ("psycopg", "asyncpg")
LONG = [pytest.param(each, marks=pytest.mark.long) for each in DRIVERS]
# For tests of what one database alone has.
on_sqlite = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("engine", LONG, indirect=True)


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[int]
    name: Mapped[str]


@track(keyed=True)
class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    customer: Mapped[Customer] = relationship()


@track(keyed=True)
class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"), index=True)
    total: Mapped[int]


def orders(engine: AsyncEngine) -> LiveQuery:
    """Orders with the name of their customer and the sum of their lines."""
    return LiveQuery(
        engine,
        select(Order.id, Customer.tenant, Customer.name, func.sum(Line.total).label("total"))
        .join(Order.customer)
        .outerjoin(Line)
        .group_by(Order.id, Customer.id),
        key=["id"],
        where=["tenant"],
    )


async def made(engine: AsyncEngine) -> None:
    """Create the tables and some rows: orders 1 to 3 of Ada, tenant 1; 4 of Bob, tenant 2."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await write(
        engine,
        sa.insert(Customer).values(
            [{"id": 1, "tenant": 1, "name": "Ada"}, {"id": 2, "tenant": 2, "name": "Bob"}]
        ),
        sa.insert(Order).values([{"id": n, "customer_id": 1 if n < 4 else 2} for n in range(1, 5)]),
        sa.insert(Line).values([{"id": n, "order_id": n, "total": 10 * n} for n in range(1, 4)]),
    )


def plain(engine: AsyncEngine) -> sa.Engine:
    """An engine for the same database that is not async, as of another process."""
    name = "sqlite" if engine.dialect.name == "sqlite" else "postgresql+psycopg"
    return sa.create_engine(engine.url.set(drivername=name))


async def write(engine: AsyncEngine, *statements: Any) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(statement)
