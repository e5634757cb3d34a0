"""A server of the feed: FastAPI over the table, as an application would have it."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.exactness.model import Item
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import Table
from headwater.web.fastapi import LiveRouter, Source


class Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    writer: int


def create() -> FastAPI:
    """Takes ``EXACTNESS_URL`` and ``EXACTNESS_ORDER`` from the environment."""
    engine = create_async_engine(os.environ["EXACTNESS_URL"])
    order: Any = os.environ["EXACTNESS_ORDER"]
    table = Table(engine, Item, order=order)
    app = FastAPI()
    live = LiveRouter()

    @live.feed("/rows", item=Row, collection="rows", event="row")
    async def rows() -> Source:
        return table.where()

    app.include_router(live)
    return app
