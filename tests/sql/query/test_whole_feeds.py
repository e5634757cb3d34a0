"""``limit="all"``: a client's map is the whole feed from the start, wherever it broke off."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import timedelta

import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from headwater.client import live_map
from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError, FeedTooLargeError, ResponseError
from headwater.feeds._feed import Feed
from headwater.sql import Table
from headwater.sql._table import TableSource
from headwater.web.fastapi import LiveRouter, Source
from sql.query.shop import Customer, Line, Order, orders, write
from support.application import Application
from support.http import request
from support.server import serving
from support.streams import MemorySender, StreamClient
from support.until import until


class OrderItem(BaseModel):
    id: int
    name: str
    total: int | None


FEED = Feed("orders", collection="orders", event="order", limit="all")
MANY = 350


@pytest.fixture(params=["table", "query"])
async def source(request, engine):
    """The orders of a shop that has many, as a table or a live query."""
    more = [{"id": n, "customer_id": 1} for n in range(5, MANY + 1)]
    await write(engine, sa.insert(Order).values(more))
    return Table(engine, Order).where() if request.param == "table" else orders(engine).where()


async def test_a_new_client_gets_all_and_each_event_can_be_resumed_from(engine, source):
    hub, client, pick = Hub(), StreamClient(FEED), random.Random(3)
    try:
        for round_ in range(4):
            sender = MemorySender()
            sender.room = 4000
            client.make_sender = lambda sender=sender: sender
            await client.connect(hub, source)
            client.leave(None if round_ == 0 else pick.randint(20, 150))
            # It may have it or not, and shall hear of it in either case.
            known, unknown = min(client.items), MANY - round_
            await write(
                engine,
                sa.delete(Line).where(Line.order_id == known),
                sa.delete(Order).where(Order.id == known),
                sa.delete(Order).where(Order.id == unknown),
                sa.update(Order).where(Order.id == known + 1).values(customer_id=2),
            )
        client.make_sender = MemorySender
        await client.connect(hub, source)
        page = await source.page(MANY)
        expected = {change.item["id"]: dict(change.item) for change in page.changes}

        def settled():
            client.read()
            return client.items == expected

        await until(settled)
        assert MANY - 8 <= len(expected) < MANY
        assert not client.resets
    finally:
        client.leave()
        await hub.close()


async def test_a_walk_goes_on_after_old_removals_were_trimmed(engine, source):
    await write(engine, sa.delete(Line), sa.delete(Order).where(Order.id < 50))
    trimmed = source.table if isinstance(source, TableSource) else source.query
    removed = 0
    while removed < 49:
        # What was removed in this very millisecond is not older than it.
        removed += await trimmed.trim(max_age=timedelta(0), grace=0)
    hub, client = Hub(), StreamClient(FEED)
    sender = MemorySender()
    sender.room = 100
    client.make_sender = lambda: sender
    try:
        await client.connect(hub, source)
        client.leave()
        assert len(client.items) == 100
        client.make_sender = MemorySender
        await client.connect(hub, source)

        def settled():
            client.read()
            return len(client.items) == MANY - 49

        await until(settled)
        assert not client.resets
    finally:
        client.leave()
        await hub.close()


async def test_with_more_items_than_it_may_have_a_new_client_gets_an_error(engine, source):
    hub = Hub()
    narrow = Feed("orders", collection="orders", event="order", limit="all", max_items=MANY - 1)
    wide = Feed("orders", collection="orders", event="order", limit="all", max_items=MANY)
    try:
        with pytest.raises(FeedTooLargeError, match="more than the 349 items"):
            await StreamClient(narrow).connect(hub, source)
        client = StreamClient(wide)
        await client.connect(hub, source)
        client.leave()
    finally:
        await hub.close()


async def test_both_halves_begin_alike_and_name_the_error(engine):
    more = [{"id": n, "customer_id": 1} for n in range(9, 199)]
    await write(engine, sa.insert(Order).values(more))
    live, query = LiveRouter(), orders(engine)
    options = {"item": OrderItem, "collection": "orders", "event": "order", "keyed": True}

    @live.feed("/orders", limit="all", **options)
    async def every(tenant: int) -> Source:
        return query.where(tenant=tenant)

    @live.feed("/few", limit="all", max_items=100, **options)
    async def few(tenant: int) -> Source:
        return query.where(tenant=tenant)

    async with serving(Application(live, prefix="/api")) as port:
        page = await body_of(port, "/api/orders?tenant=1")
        assert (len(page["orders"]), page["has_more"]) == (100, True)
        rest = await body_of(port, f"/api/orders?tenant=1&after={page['position']}")
        assert {item["id"] for item in page["orders"] + rest["orders"]} == {1, 2, 3, *range(9, 199)}
        assert not rest["has_more"]
        async with request(port, "/api/orders/stream?tenant=1") as answer:
            assert json.loads((await answer.next()).data) == page
            others = [json.loads((await answer.next()).data) for _ in range(93)]
            assert others == rest["orders"]
        async with live_map(f"http://127.0.0.1:{port}/api/orders?tenant=1") as held:
            version = await held.changed()
            while len(held) < 193:
                version = await held.changed(version)
            assert held[198] == {"id": 198, "name": "Ada", "total": None}
        async with live_map(f"http://127.0.0.1:{port}/api/few?tenant=1") as held:
            with pytest.raises(ResponseError, match="more than the 100 items"):
                await held.changed()
        async with request(port, "/api/few/stream?tenant=1") as answer:
            assert (answer.status, answer.headers["retry-after"]) == (200, "60")
            (message,) = await answer.rest()
        error = json.loads(message.data)
        assert (message.event, error["status"]) == ("error", 413)
        assert "more than the 100 items" in error["detail"]


async def body_of(port, path):
    async with request(port, path) as answer:
        return json.loads(await answer.body())


async def test_only_a_keyed_source_is_shown_whole(engine):
    live = LiveRouter()
    with pytest.raises(DeclarationError, match="limit='everything' must be 1 to 100, or 'all'"):
        live.feed("/x", item=dict, limit="everything")
    with pytest.raises(DeclarationError, match="max_items=7 must be at least 100"):
        live.feed("/x", item=dict, limit="all", max_items=7)


async def test_a_renamed_customer_reaches_a_client_in_the_middle_of_its_walk(engine, source):
    hub, client = Hub(), StreamClient(FEED)
    sender = MemorySender()
    sender.room = 100
    client.make_sender = lambda: sender
    try:
        await client.connect(hub, source)
        await write(engine, sa.update(Customer).where(Customer.id == 1).values(name="Ada L"))
        await asyncio.gather(*(source.page(5) for _ in range(3)))
        page = await source.page(MANY)
        expected = {change.item["id"]: dict(change.item) for change in page.changes}

        def settled():
            sender.drain()
            client.read()
            return client.items == expected

        await until(settled)
    finally:
        client.leave()
        await hub.close()
