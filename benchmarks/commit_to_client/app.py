"""One application with both: a feed of the table, and streams that each ask the database."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from benchmarks.fanout.machine import SERVER_CORE, pin
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.sql import Table, configure_sqlite, track
from headwater.web.fastapi import LiveRouter, Source

EVERY = 3.0


class Own(DeclarativeBase):
    pass


@track()
class Item(Own):
    __tablename__ = "latency_rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    text: str


def create() -> FastAPI:
    """Takes the database's address from ``BENCHMARK_URL``."""
    pin(SERVER_CORE)
    engine = create_async_engine(os.environ["BENCHMARK_URL"])
    if engine.dialect.name == "sqlite":
        configure_sqlite(engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    table = Table(engine, Item)
    statements = 0

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    late: list[float] = []

    async def watch_the_loop() -> None:
        while True:
            due = time.perf_counter() + 0.005
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - due)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Own.metadata.create_all)
        watching = asyncio.create_task(watch_the_loop())
        yield
        watching.cancel()

    app = FastAPI(lifespan=lifespan)
    live = LiveRouter()

    @live.feed("/rows", item=Row, collection="rows", event="row")
    async def rows() -> Source:
        return table.where()

    app.include_router(live)

    @app.post("/rows")
    async def write() -> dict[str, float]:
        async with sessions() as session:
            item = Item(text="a row of some length, as a log line has it")
            session.add(item)
            await session.commit()
        return {"id": item.id, "committed": time.time()}

    @app.get("/statements")
    async def asked() -> int:
        return statements

    @app.get("/late")
    async def waited() -> list[float]:
        """Seconds by which callbacks of the event loop were late, since it was last asked."""
        found = late.copy()
        late.clear()
        return found

    @app.get("/polled/stream")
    async def polled() -> StreamingResponse:
        return StreamingResponse(poll(sessions), media_type="text/event-stream")

    return app


async def poll(sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[str]:
    """What is replaced: each stream asks for rows above the last id, every three seconds."""
    async with sessions() as session:
        last = await session.scalar(sa.select(sa.func.max(Item.id))) or 0
    yield ": open\n\n"
    while True:
        await asyncio.sleep(EVERY)
        async with sessions() as session:
            found = await session.scalars(
                sa.select(Item).where(Item.id > last).order_by(Item.id).limit(100)
            )
            new = [Row.model_validate(item) for item in found]
        for row in new:
            last = row.id
            yield f"event: row\ndata: {row.model_dump_json()}\n\n"
