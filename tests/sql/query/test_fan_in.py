"""One change that reaches very many rows: bounded memory, small steps, resumed in the middle."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from sql.query.shop import Customer, Order, orders, write
from support.until import until

FEW, MANY = 5_000, 100_000


class Counter:
    """A sink that keeps only how many changes it was delivered at once."""

    def __init__(self):
        self.sizes = []
        self.tenants = set()

    def deliver(self, changes, head):
        self.sizes.append(len(changes))
        self.tenants |= {change.values["tenant"] for change in changes}

    def retire(self, before):
        pass


async def fill(engine, count):
    many = [{"id": n, "customer_id": 1} for n in range(10, 10 + count)]
    for start in range(0, count, 10_000):
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Order), many[start : start + 10_000])


async def rename(engine, number, name):
    await write(engine, sa.update(Customer).where(Customer.id == number).values(name=name))


async def check_tail(engine, count):
    """A tail delivers a customer of many orders in batches, and the loop runs between them."""
    await fill(engine, count)
    query, sink = orders(engine), Counter()
    await query.origin.attach(sink)
    ticks, running = 0, True

    async def tick():
        nonlocal ticks
        while running:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.ensure_future(tick())
    try:
        tracemalloc.start()
        await rename(engine, 1, "Eve")
        # It waits for its turn, which comes.
        await rename(engine, 2, "Bo")
        await until(lambda: sum(sink.sizes) >= count + 4, 280)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        running = False
        await ticking
        await query.origin.detach()
    assert max(sink.sizes) <= 500
    assert sink.tenants == {1, 2}
    assert ticks > len(sink.sizes)
    # Some thousand keys and some hundred rows at a time, however many there are.
    assert peak < 24 * 1024 * 1024


async def test_many_rows_are_delivered_in_batches(engine):
    await check_tail(engine, FEW)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_rows_are_delivered_in_batches(engine):
    await check_tail(engine, MANY)


async def test_a_commit_in_the_middle_of_many_rows_is_delivered_after_them(engine):
    """Nothing else wakes the tail: the commit has done so while it reads on in pieces."""
    await fill(engine, 2_000)
    query = orders(engine)
    for turn in range(10):
        sink = Counter()
        await query.origin.attach(sink)
        await rename(engine, 1, f"Eve {turn}")
        await until(lambda sink=sink: sink.sizes)
        await rename(engine, 2, f"Bo {turn}")
        in_the_middle = 1 not in sink.tenants or sum(sink.sizes) < 2_000
        await until(lambda sink=sink: sink.tenants == {1, 2})
        await query.origin.detach()
        if in_the_middle:  # a busy machine may commit too late
            return
    pytest.fail("each commit came after all rows")


async def test_a_client_resumes_in_the_middle_of_many_rows(engine):
    await fill(engine, 1_000)
    source = orders(engine).where(tenant=1)
    page = await source.page(1)
    items, gone = {}, []
    await rename(engine, 1, "Eve")

    async def read_on():
        nonlocal page
        page = await source.page(100, after=await source.locate(page.epoch, str(page.end)))
        for change in page.changes:
            if change.removed:
                gone.append(change.key["id"])
            else:
                items[change.item["id"]] = change.item["name"]

    for _ in range(3):
        await read_on()
    assert page.has_more
    # The rows that it has are changed again, and one that it has not yet goes.
    await rename(engine, 1, "Eva")
    await write(engine, sa.delete(Order).where(Order.id == 1_009))
    while page.has_more:
        await read_on()
    assert gone == [1_009]
    assert len(items) == 1_002
    assert set(items.values()) == {"Eva"}


async def test_a_client_that_is_far_behind_reads_its_own_keys_alone(engine):
    await fill(engine, FEW)
    source = orders(engine).where(tenant=2)
    page = await source.page(9)
    for name in ("a", "b"):
        await rename(engine, 1, name)
    await rename(engine, 2, "Bo")
    seen = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: seen.append(given[2]))
    after = await source.page(9, after=page.end)
    assert [change.item["name"] for change in after.changes] == ["Bo"]
    # Look, now and since the place; keys; rows; who had them.
    assert len([one for one in seen if one.lstrip().startswith("SELECT")]) == 5
