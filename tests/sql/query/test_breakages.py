"""What broke the algorithm while it was built. Each test fails when its remedy is taken out."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy import event, select

from headwater.errors import PositionError, SourceUnavailableError
from headwater.sql.query._live import LiveQuery
from sql.query.shop import (
    Customer,
    Line,
    Order,
    on_postgresql,
    on_sqlite,
    orders,
    plain,
    write,
)
from sql.query.test_live import shown
from support.tables import Recorder
from support.until import until


def before_statement(engine, part, call):
    """Call once, before the first statement that holds this text is executed."""
    done = []

    def execute(_connection, _cursor, statement, *_):
        if part in statement and not done:
            done.append(statement)
            call()

    event.listen(engine.sync_engine, "before_cursor_execute", execute)
    return done


async def test_all_statements_of_a_read_see_one_snapshot(engine, tmp_path):
    """A change between two statements is in the next read, whole, or not at all."""
    query = orders(engine)
    page = await query.where().page(9)
    await write(engine, sa.update(Line).where(Line.id == 1).values(total=11))
    other = plain(engine)

    def move() -> None:
        with other.begin() as connection:
            connection.execute(sa.update(Line).where(Line.id == 1).values(order_id=4, total=12))

    done = before_statement(engine, "sum(lines.total)", move)
    first = await query.where().page(9, after=page.end)
    assert done
    assert shown(first.changes) == [(1, "Ada", 11)]
    second = await query.where().page(9, after=first.end)
    assert shown(second.changes) == [(1, "Ada", None), (4, "Bob", 12)]
    other.dispose()


@on_postgresql
async def test_a_truncate_that_commits_during_a_read_is_a_reset(engine):
    """TRUNCATE is not MVCC-safe: a snapshot from before it finds the table empty."""
    query = orders(engine)
    page = await query.where().page(9)
    await query.where().page(9, after=page.end)
    async with engine.connect() as connection:
        await connection.execute(sa.text("TRUNCATE lines"))
        reading = asyncio.ensure_future(query.where().page(9, after=page.end))
        waits = sa.text(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'lines'::regclass"
        )

        async def waiting() -> bool:
            async with engine.connect() as other:
                return bool(await other.scalar(waits))

        await until(waiting)
        await connection.commit()
    try:
        after = await reading
    except (PositionError, SourceUnavailableError):
        return
    assert after.epoch != page.epoch


@on_postgresql
async def test_the_ddl_of_others_is_never_the_victim(engine):
    """The read gives up before PostgreSQL looks for a deadlock, after a second."""
    query = orders(engine)
    await query.where().page(9)
    async with engine.connect() as connection:
        await connection.execute(sa.text("ALTER TABLE lines ADD COLUMN note text"))
        # It has a lock on orders by then, and waits for one on lines.
        reading = asyncio.ensure_future(query.where().page(9))
        await asyncio.wait([reading], timeout=1.5)
        await connection.execute(sa.text("ALTER TABLE orders ADD COLUMN note text"))
        await connection.rollback()
    with pytest.raises(SourceUnavailableError, match="lock was not free"):
        await reading


async def test_what_comes_and_goes_in_one_transaction_is_no_removal(engine):
    """Nobody saw an order that was of tenant 2 for the time of a transaction."""
    query = orders(engine)
    page = await query.where().page(9)
    await write(
        engine,
        sa.update(Order).where(Order.id == 1).values(customer_id=2),
        sa.update(Order).where(Order.id == 1).values(customer_id=1),
        sa.insert(Order).values(id=9, customer_id=2),
        sa.update(Order).where(Order.id == 9).values(customer_id=1),
    )
    assert not (await query.where(tenant=2).page(9, after=page.end)).changes
    mine = await query.where(tenant=1).page(9, after=page.end)
    assert shown(mine.changes) == [(1, "Ada", 10), (9, "Ada", None)]


@on_postgresql
async def test_an_older_transaction_that_updates_a_younger_ones_row(engine):
    """The latest change of a row is then older than its links: a place must not end between."""
    query = orders(engine)
    async with engine.connect() as older:
        await older.execute(sa.select(sa.func.pg_current_xact_id()))
        await write(engine, sa.insert(Line).values(id=77, order_id=3, total=7))
        await older.execute(sa.update(Line).where(Line.id == 77).values(total=8))
        await older.commit()
    # A process that knows of nothing but what the tables say.
    page = await orders(engine).where().page(9)
    assert shown(page.changes)[2] == (3, "Ada", 38)
    await write(engine, sa.update(Line).where(Line.id == 77).values(order_id=4))
    after = await query.where().page(9, after=page.end)
    assert shown(after.changes) == [(3, "Ada", 30), (4, "Bob", 8)]


async def test_a_place_in_mid_batch_is_never_taken_for_an_older_one(engine):
    """The tenant who was sent an order in the middle of a batch is sent its removal too."""
    query = orders(engine)
    page = await query.where().page(9)
    # A batch of three orders, of which the client is sent the first, now of tenant 2.
    await write(engine, sa.update(Customer).where(Customer.id == 1).values(tenant=2, name="A"))
    first = await query.where(tenant=2).page(1, after=page.end)
    assert shown(first.changes) == [(1, "A", 10)]
    assert first.has_more
    # It leaves for tenant 3 before the rest of the batch is read.
    await write(engine, sa.insert(Customer).values(id=3, tenant=3, name="Cy"))
    await write(engine, sa.update(Order).where(Order.id == 1).values(customer_id=3))
    place = await query.where(tenant=2).locate(first.epoch, str(first.end))
    rest = await query.where(tenant=2).page(9, after=place)
    assert shown(rest.changes) == [("gone", 1, 2), (2, "A", 20), (3, "A", 30)]


async def test_what_only_the_later_part_of_a_place_has_is_removed_too(engine):
    """The oldest snapshot of the place does not have the row that is gone."""
    query = orders(engine)
    page = await query.where().page(9)
    await write(
        engine, sa.insert(Order).values(id=0, customer_id=1), sa.update(Line).values(total=1)
    )
    first = await query.where().page(1, after=page.end)
    assert shown(first.changes) == [(0, "Ada", None)]
    assert first.has_more
    await write(engine, sa.delete(Order).where(Order.id == 0))
    rest = await query.where().page(9, after=first.end)
    assert shown(rest.changes) == [("gone", 0, 1), (1, "Ada", 1), (2, "Ada", 1), (3, "Ada", 1)]


@on_postgresql
async def test_a_page_that_fails_harms_neither_the_tail_nor_other_pages(engine):
    """PostgreSQL runs no further statement of a transaction with one that failed."""
    query, sink = orders(engine), Recorder()
    await query.origin.attach(sink)
    try:
        # PostgreSQL has no such number for a limit.
        asked = ((1, 9), (3, 2**40), (2, 9))
        pages = [query.where(tenant=tenant).page(limit) for tenant, limit in asked]
        one, wrong, two = await asyncio.gather(*pages, return_exceptions=True)
        assert isinstance(wrong, sa.exc.DBAPIError)
        assert len(one.changes) == 3
        assert len(two.changes) == 1
        await write(engine, sa.insert(Order).values(id=9, customer_id=1))
        await sink.count(1)
        assert not sink.resets
    finally:
        await query.origin.detach()


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_page_has_what_was_committed_before_it_was_asked_for(engine, resumed):
    """Also while the tail is in a transaction that began before."""
    query, sink = orders(engine), Recorder()
    other = plain(engine)
    await query.origin.attach(sink)
    place = (await query.where().page(9)).end
    asked = []

    def rename() -> None:
        with other.begin() as connection:
            connection.execute(sa.update(Customer).where(Customer.id == 1).values(name="Eve"))
        after = place if resumed else None
        asked.append(asyncio.ensure_future(query.where(tenant=1).page(9, after=after)))

    try:
        before_statement(engine, "sum(lines.total)", rename)
        await write(engine, sa.update(Line).where(Line.id == 1).values(total=11))
        await until(lambda: asked)
        page = await asked[0]
        assert shown(page.changes) == [(1, "Eve", 11), (2, "Eve", 20), (3, "Eve", 30)]
    finally:
        await query.origin.detach()
        other.dispose()


@on_sqlite
async def test_rows_that_a_replace_deletes_are_removed(engine):
    query = orders(engine)
    page = await query.where().page(9)
    replace = sa.insert(Order).prefix_with("OR REPLACE").values(id=1, customer_id=2)
    await write(engine, replace)
    assert shown((await query.where(tenant=1).page(9, after=page.end)).changes) == [("gone", 1, 1)]


@on_sqlite
async def test_a_small_change_reads_no_whole_table(engine):
    """SQLite takes a quarter of all rows to be newer than any number, unless it is told."""
    query, seen = orders(engine), []
    async with engine.begin() as connection:
        for model, rows in (
            (Customer, [{"id": n, "tenant": n % 9, "name": "x"} for n in range(10, 600)]),
            (Order, [{"id": n, "customer_id": 10 + n % 590} for n in range(10, 6_000)]),
            (Line, [{"id": n, "order_id": 10 + n % 5_900, "total": 1} for n in range(10, 18_000)]),
        ):
            await connection.execute(sa.insert(model), rows)
        await connection.execute(sa.text("ANALYZE"))
    source = query.where(tenant=1)
    page = await source.page(9)
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda *given: seen.append(given[2:4])
    )
    await write(engine, sa.update(Line).where(Line.id == 17).values(total=5))
    await source.page(9, after=page.end)
    (affected,) = [one for one in seen if "affected" in one[0]]
    async with engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {affected[0]}", affected[1])
        assert not [row for row in plan.scalars("detail") if row.startswith("SCAN t")]


async def test_pages_of_one_come_to_few_segments(engine):
    """Positions stay short, however often a client stops in the middle."""
    query = orders(engine)
    page = await query.where().page(9)
    most = 0
    for round_ in range(40):
        await write(engine, sa.update(Customer).values(name=f"n{round_}"))
        page = await query.where().page(1, after=page.end)
        most = max(most, str(page.end).count("~"))
    assert most <= 6
    while page.has_more:
        page = await query.where().page(1, after=page.end)
    assert str(page.end).count("~") == 0


async def test_two_rows_with_one_key_are_an_error_not_a_mix(engine, monkeypatch):
    """As of a unique constraint that the model has and the database lacks."""
    query = LiveQuery(engine, select(Order.id), key=["id"])
    monkeypatch.setattr(query.reader.derivation, "select", select(Order.id).join(Line, sa.true()))
    with pytest.raises(ValueError, match="two rows with the key"):
        await query.where().page(9)
