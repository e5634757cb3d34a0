"""The models of the example in the README: one SQLAlchemy table and the shape of an item."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import sqlite_engine, track


class Base(DeclarativeBase):
    pass


@track()  # this line is all that Headwater asks of a table
class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    city: Mapped[str]


class OrderItem(BaseModel):
    id: int
    city: str


engine = sqlite_engine("sqlite:///shop.db")


@asynccontextmanager
async def create_tables(_: object) -> AsyncIterator[None]:
    """The lifespan of an application: creates the tables that are missing."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
