"""A live query as a source: pages, places, what the tail delivers to whom."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import select

from headwater.errors import DeclarationError, PositionError
from headwater.sql.query.live import LiveQuery
from sql.query.shop import Customer, Line, Order, orders, write
from support.tables import Recorder


def shown(changes):
    return [
        ("gone", change.key["id"], change.values["tenant"])
        if change.removed
        else (change.item["id"], change.item["name"], change.item["total"])
        for change in changes
    ]


async def test_a_page_has_the_last_rows_by_key(engine):
    query = orders(engine)
    page = await query.where(tenant=1).page(2)
    assert shown(page.changes) == [(2, "Ada", 20), (3, "Ada", 30)]
    assert page.has_more
    before = await query.where(tenant=1).page(2, before=page.start)
    assert shown(before.changes) == [(1, "Ada", 10)]
    assert not before.has_more
    assert shown((await query.where().page(9)).changes)[-1] == (4, "Bob", None)


async def test_what_changed_in_any_table_comes_after_a_place(engine):
    source = orders(engine).where(tenant=1)
    page = await source.page(9)
    await write(engine, sa.update(Line).where(Line.id == 2).values(total=25))
    first = await source.page(9, after=page.end)
    assert shown(first.changes) == [(2, "Ada", 25)]
    await write(engine, sa.update(Customer).where(Customer.id == 1).values(name="Ada L"))
    second = await source.page(2, after=first.end)
    assert shown(second.changes) == [(1, "Ada L", 10), (2, "Ada L", 25)]
    assert second.has_more
    place = await source.locate(second.epoch, str(second.end))
    third = await source.page(2, after=place)
    assert shown(third.changes) == [(3, "Ada L", 30)]
    assert not third.has_more
    assert not (await source.page(2, after=third.end)).changes


async def test_a_row_that_moves_leaves_one_filter_and_enters_another(engine):
    query = orders(engine)
    page = await query.where().page(9)
    await write(engine, sa.update(Order).where(Order.id == 1).values(customer_id=2))
    assert shown((await query.where(tenant=1).page(9, after=page.end)).changes) == [("gone", 1, 1)]
    assert shown((await query.where(tenant=2).page(9, after=page.end)).changes) == [(1, "Bob", 10)]
    assert shown((await query.where().page(9, after=page.end)).changes) == [(1, "Bob", 10)]


async def test_a_row_that_was_deleted_is_removed_by_its_key(engine):
    query = orders(engine)
    page = await query.where().page(9)
    await write(
        engine, sa.delete(Line).where(Line.order_id == 3), sa.delete(Order).where(Order.id == 3)
    )
    assert shown((await query.where(tenant=1).page(9, after=page.end)).changes) == [("gone", 3, 1)]
    assert not (await query.where(tenant=2).page(9, after=page.end)).changes


async def test_the_tail_delivers_with_the_values_that_filters_compare(engine):
    query = orders(engine)
    sink = Recorder()
    await query.origin.attach(sink)
    try:
        await write(engine, sa.update(Order).where(Order.id == 1).values(customer_id=2))
        await sink.count(2)
        gone, item = sink.changes
        assert shown([gone, item]) == [("gone", 1, 1), (1, "Bob", 10)]
        assert gone.values_now == item.values
        assert str(gone.place) == str(item.place)
        await write(engine, sa.delete(Customer).where(Customer.id == 3))
        await write(engine, sa.insert(Order).values(id=9, customer_id=1))
        await sink.count(3)
        assert shown(sink.changes[2:]) == [(9, "Ada", None)]
    finally:
        await query.origin.detach()


async def test_places_are_checked(engine):
    source = orders(engine).where()
    page = await source.page(1)
    for text in ("", "-", "~", "0~0", "0,W10~0", str(page.end) + "~", "zzzzzzzzzzzz"):
        with pytest.raises(PositionError):
            await source.locate(page.epoch, text)
    with pytest.raises(PositionError):
        await source.locate("another", str(page.end))
    other = LiveQuery(engine, select(Order.id), key=["id"])
    with pytest.raises(PositionError):
        await other.where().locate(page.epoch, str(page.end))


async def test_declaration_errors(engine):
    with pytest.raises(DeclarationError, match="cannot be filtered by 'name'"):
        orders(engine).where(name="Ada")
    with pytest.raises(DeclarationError, match="cannot fill the field 'city'"):
        orders(engine).where().check_fields(["id", "city"])
    metadata = sa.MetaData()
    plain = sa.Table("plain", metadata, sa.Column("id", sa.Integer, primary_key=True))
    with pytest.raises(DeclarationError, match="not tracked"):
        LiveQuery(engine, select(plain.c.id), key=["id"])
