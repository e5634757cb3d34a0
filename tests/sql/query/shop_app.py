"""The shop's orders over HTTP, as a server program: ``uvicorn sql.query.shop_app:app``."""

from __future__ import annotations

import os

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import sqlite_engine
from headwater.web.fastapi import LiveRouter, Source
from sql.query.shop import orders

URL = os.environ["SHOP_DATABASE"]


class OrderItem(BaseModel):
    id: int
    tenant: int
    name: str
    total: int | None


engine = sqlite_engine(URL) if URL.startswith("sqlite") else create_async_engine(URL)
ORDERS = orders(engine)
app = FastAPI()
live = LiveRouter()


@live.feed("/orders", item=OrderItem, collection="orders", event="order", keyed=True, limit=100)
async def list_orders(tenant: int) -> Source:
    return ORDERS.where(tenant=tenant)


app.include_router(live, prefix="/api")
