"""The example of the README; its table is in ``shop.py``."""

from fastapi import FastAPI
from shop import Order, OrderItem, engine, open_shop

from headwater.sql import Table
from headwater.web.fastapi import LiveRouter, Source

app = FastAPI(lifespan=open_shop)
live = LiveRouter()
ORDERS = Table(engine, Order)


@live.feed("/orders", item=OrderItem, collection="orders", event="order")
async def orders(city: str | None = None) -> Source:
    return ORDERS.optional(city=city)


app.include_router(live, prefix="/api")
