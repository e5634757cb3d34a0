"""A live query as a source: pages, places, what the tail delivers to whom."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy import select

from headwater.errors import DeclarationError, PositionError, SourceUnavailableError
from headwater.sql import renew_epochs
from headwater.sql.alembic import add_tracking, drop_tracking
from headwater.sql.query._live import LiveQuery
from sql.query.shop import Customer, Line, Order, on_postgresql, on_sqlite, orders, write
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


class Odd:
    """Python shows each of them otherwise."""


class OddType(sa.types.TypeDecorator):
    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return 9


async def test_a_position_fits_the_same_query_in_another_process(engine):
    """Another process has another order of the values of a set."""
    zero, one = (
        LiveQuery(
            engine,
            select(Customer.id).where(
                Customer.tenant.in_(set(values)), Customer.tenant != sa.literal(Odd(), OddType())
            ),
            key=["id"],
        )
        for values in ([0, 8], [8, 0])
    )
    page = await zero.where().page(1)
    assert await one.where().locate(page.epoch, str(page.end)) == page.end


async def test_declaration_errors(engine):
    with pytest.raises(DeclarationError, match="cannot be filtered by 'name'"):
        orders(engine).where(name="Ada")
    with pytest.raises(DeclarationError, match="cannot fill the field 'city'"):
        orders(engine).where().check_fields(["id", "city"])
    metadata = sa.MetaData()
    plain = sa.Table("plain", metadata, sa.Column("id", sa.Integer, primary_key=True))
    with pytest.raises(DeclarationError, match="not tracked"):
        LiveQuery(engine, select(plain.c.id), key=["id"])


async def test_trim_moves_positions_on_and_lets_older_ones_expire(engine):
    query = orders(engine)
    source, sink = query.where(), Recorder()
    await query.origin.attach(sink)
    try:
        page = await source.page(9)
        await write(engine, sa.update(Order).where(Order.id == 1).values(customer_id=2))
        await write(engine, sa.insert(Order).values(id=9, customer_id=1))
        await sink.count(3)
        assert await query.trim(max_age=timedelta(hours=1), grace=0) == 0
        assert await query.trim(max_age=timedelta(0), grace=0.3) == 1
        await sink.until(lambda self: self.retired)
        now = await source.page(9)
        assert now.end.includes(sink.retired[0])
        assert not page.end.includes(sink.retired[0])
        with pytest.raises(PositionError) as caught:
            await source.page(9, after=page.end)
        assert caught.value.reason == "expired"
        assert await source.locate(now.epoch, str(now.end))
    finally:
        await query.origin.detach()


PARTS = (
    "DROP TABLE lines",
    "CREATE TABLE lines (id int PRIMARY KEY, order_id int, total int) PARTITION BY RANGE (id)",
    "CREATE TABLE part PARTITION OF lines FOR VALUES FROM (0) TO (9)",
    "INSERT INTO lines VALUES (3, 3, 30)",
)


@on_postgresql
@pytest.mark.parametrize(
    ("change", "last"),
    [
        ("TRUNCATE lines", (3, "Ada", None)),
        ("ALTER TABLE customers ALTER COLUMN name TYPE text USING 'Eve'", (3, "Eve", 30)),
        ("ALTER TABLE lines DETACH PARTITION part", (3, "Ada", None)),
    ],
)
async def test_rows_that_change_without_row_triggers_are_a_reset(engine, change, last):
    if "PARTITION" in change:
        await write(engine, *map(sa.text, PARTS))
        async with engine.begin() as connection:
            await connection.run_sync(
                lambda sync: add_tracking(sync, "lines", keyed=True, links=["order_id"])
            )
    query = orders(engine)
    sink = Recorder()
    await query.origin.attach(sink)
    try:
        page = await query.where().page(9)
        await write(engine, sa.text(change))
        await sink.until(lambda self: self.resets, seconds=4)
        with pytest.raises(PositionError):
            await query.where().locate(page.epoch, str(page.end))
        assert shown((await query.where(tenant=1).page(1)).changes) == [last]
    finally:
        await query.origin.detach()


@on_sqlite
async def test_a_key_that_is_set_by_the_name_of_the_rowid(engine):
    source = orders(engine).where()
    page = await source.page(9)
    await write(engine, sa.text("UPDATE orders SET rowid = 9 WHERE id = 4"))
    changed = await source.page(9, after=page.end)
    assert shown(changed.changes) == [("gone", 4, 2), (9, "Bob", None)]


async def test_links_that_a_database_lacks_are_named(engine):
    query = orders(engine)
    await write(engine, sa.text("DELETE FROM headwater_links WHERE name = 'orders'"))
    with pytest.raises(
        SourceUnavailableError, match=r"'orders', keyed=True, links=\['customer_id'"
    ):
        await query.where().page(1)


async def test_another_query_may_need_more_links(engine):
    query = LiveQuery(engine, select(Line.id).where(Line.total > 15), key=["id"])
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: drop_tracking(sync, "lines"))
        await connection.run_sync(
            lambda sync: add_tracking(sync, "lines", keyed=True, links=["order_id"])
        )
    with pytest.raises(DeclarationError, match="'lines' lack id, total"):
        await query.where().page(1)
    async with engine.begin() as connection:
        await connection.run_sync(
            lambda sync: add_tracking(sync, "lines", keyed=True, links=["id", "total"])
        )
    page = await query.where().page(9)
    assert [change.item for change in page.changes] == [{"id": 2}, {"id": 3}]
    # Former rows know nothing of it, so older positions are of another life.
    await write(engine, sa.update(Line).where(Line.id == 2).values(total=1))
    left = await query.where().page(9, after=page.end)
    assert [(change.key, change.removed) for change in left.changes] == [({"id": 2}, True)]


async def test_tracking_can_be_dropped_and_added_to_tables_with_rows(engine):
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: drop_tracking(sync, "lines"))
    query = orders(engine)
    with pytest.raises(SourceUnavailableError, match="'lines'|a column is missing"):
        await query.where().page(1)
    async with engine.begin() as connection:
        await connection.run_sync(
            lambda sync: add_tracking(sync, "lines", keyed=True, links=["order_id"])
        )
    page = await query.where().page(9)
    await write(engine, sa.update(Line).where(Line.id == 1).values(order_id=4))
    after = await query.where().page(9, after=page.end)
    assert shown(after.changes) == [(1, "Ada", None), (4, "Bob", 10)]


@on_postgresql
async def test_a_dump_of_another_server_needs_new_epochs(engine):
    query = orders(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE lines DISABLE TRIGGER ALL")
        await connection.exec_driver_sql(
            "UPDATE lines SET headwater_change = '9000000000', headwater_since = '9000000000'"
        )
        await connection.exec_driver_sql("ALTER TABLE lines ENABLE TRIGGER ALL")
        triggers = (
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'lines'::regclass AND NOT tgisinternal"
        )
        for (name,) in (await connection.exec_driver_sql(triggers)).all():
            await connection.exec_driver_sql(f'ALTER TABLE lines ENABLE ALWAYS TRIGGER "{name}"')
    with pytest.raises(DeclarationError, match="renew_epochs"):
        await query.where().page(1)
    async with engine.begin() as connection:
        await connection.run_sync(renew_epochs)
    page = await query.where().page(9)
    await write(engine, sa.update(Line).where(Line.id == 1).values(order_id=4))
    after = await query.where().page(9, after=page.end)
    assert shown(after.changes) == [(1, "Ada", None), (4, "Bob", 10)]


async def test_a_column_that_vanished_is_a_sentence(engine):
    query = orders(engine)
    await write(engine, sa.text("ALTER TABLE customers DROP COLUMN name"))
    with pytest.raises(SourceUnavailableError, match="a column is missing"):
        await query.where().page(1)


async def test_a_table_whose_tracking_drifted_is_named(engine):
    query, sink = orders(engine), Recorder()
    await query.where().page(9)
    await query.origin.attach(sink)
    sqlite = engine.dialect.name == "sqlite"
    trigger = "headwater_lines_delete" if sqlite else "headwater_lines_deleted ON lines"
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"DROP TRIGGER {trigger}"))
    await sink.until(lambda sink: sink.interrupts)
    said = "table lines: .*add_tracking\\(op, 'lines', keyed=True\\)"
    with pytest.raises(SourceUnavailableError, match=said):
        await query.where().page(9)
    async with engine.begin() as connection:
        await connection.run_sync(add_tracking, "lines", keyed=True)
    await write(engine, sa.update(Line).where(Line.id == 2).values(total=25))
    await sink.until(lambda sink: sink.changes or sink.resets)
    await query.origin.detach()
    assert len((await query.where().page(9)).changes) == 4
