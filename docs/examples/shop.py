"""The README's shop: one SQLAlchemy table, the shape of an item, and where the table is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
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
async def open_shop(_: FastAPI) -> AsyncIterator[None]:
    """Makes the table when the application starts, unless it is there."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()
