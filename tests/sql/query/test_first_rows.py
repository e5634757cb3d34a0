"""A live query with LIMIT: the first rows, for each value of its filters."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from headwater.delivery._hub import Hub
from headwater.errors import DeclarationError
from headwater.feeds._feed import Feed
from headwater.sql import LiveQuery
from sql.query.shop import Customer, Line, Order, write
from support.streams import StreamClient
from support.until import until


def latest(engine, limit=2, where=("tenant",)):
    """The latest orders with their customer."""
    lines = select(func.count()).where(Line.order_id == Order.id).scalar_subquery()
    return LiveQuery(
        engine,
        select(Order.id, Customer.tenant, Customer.name, lines.label("lines"))
        .join(Order.customer)
        .order_by(Order.id.desc())
        .limit(limit),
        key=["id"],
        where=list(where),
    )


def shown(changes):
    return [("gone" if one.removed else one.item["name"], one.key["id"]) for one in changes]


async def test_a_page_shows_the_first_rows_last(engine):
    source = latest(engine).where(tenant=1)
    page = await source.page(9)
    assert shown(page.changes) == [("Ada", 2), ("Ada", 3)]
    assert not page.has_more
    one = await source.page(1)
    assert shown(one.changes) == [("Ada", 3)]
    assert one.has_more
    assert shown((await source.page(9, before=one.start)).changes) == [("Ada", 2)]
    assert shown((await latest(engine, 3, ()).where().page(9)).changes)[-1] == ("Bob", 4)


async def test_a_row_that_comes_takes_another_out_and_one_that_goes_lets_one_in(engine):
    source = latest(engine).where(tenant=1)
    page = await source.page(9)
    await write(engine, sa.insert(Order).values(id=9, customer_id=1))
    came = await source.page(9, after=page.end)
    assert shown(came.changes) == [("gone", 2), ("Ada", 9)]
    await write(engine, sa.delete(Line).where(Line.order_id == 3))
    await write(engine, sa.delete(Order).where(Order.id == 3))
    went = await source.page(9, after=came.end)
    assert shown(went.changes) == [("Ada", 2), ("gone", 3)]
    # A change of a row that is not among the first ones is none.
    await write(engine, sa.insert(Line).values(id=50, order_id=1, total=1))
    assert not (await source.page(9, after=went.end)).changes
    assert not (await latest(engine).where(tenant=2).page(9, after=page.end)).changes


async def test_pages_of_one_change_end_in_the_same_window(engine):
    source = latest(engine).where(tenant=1)
    page = await source.page(9)
    await write(engine, sa.update(Customer).where(Customer.id == 1).values(name="Eve"))
    await write(engine, sa.insert(Order).values(id=9, customer_id=1))
    sent = []
    for _ in range(9):
        page = await source.page(1, after=await source.locate(page.epoch, str(page.end)))
        sent += shown(page.changes)
        if not page.has_more:
            break
    assert sent == [("gone", 2), ("Eve", 3), ("Eve", 9)]


async def test_streams_keep_the_first_rows_of_their_own(engine):
    query, hub = latest(engine), Hub()
    feed = Feed("latest", collection="orders", event="order")
    clients = {tenant: StreamClient(feed) for tenant in (1, 2)}
    try:
        for tenant, client in clients.items():
            await client.connect(hub, query.where(tenant=tenant))
        await write(engine, sa.update(Order).where(Order.id == 3).values(customer_id=2))
        expected = {1: [1, 2], 2: [3, 4]}

        def settled():
            for client in clients.values():
                client.read()
            return {t: sorted(client.items) for t, client in clients.items()} == expected

        await until(settled)
        clients[1].leave()
        await write(engine, sa.insert(Order).values([{"id": 9, "customer_id": 1}]))
        await write(engine, sa.insert(Order).values([{"id": 10, "customer_id": 2}]))
        await clients[1].connect(hub, query.where(tenant=1))
        expected = {1: [2, 9], 2: [4, 10]}
        await until(settled)
        assert not clients[1].resets
    finally:
        for client in clients.values():
            client.leave()
        await hub.close()


async def test_a_filter_is_one_window(engine):
    query = latest(engine)
    for source in (
        query.where(),
        query.where(tenant=[1, 2]),
        query.where(tenant=1) | query.where(tenant=2),
    ):
        with pytest.raises(DeclarationError, match="first rows for each value of tenant"):
            await source.page(9)
