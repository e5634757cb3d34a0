"""A live query through the hub: clients of filters that come and go, and what each was sent."""

from __future__ import annotations

import asyncio
import json
import random
from collections import defaultdict

import pytest
import sqlalchemy as sa

from headwater.delivery._hub import Hub
from headwater.feeds._feed import Feed
from headwater.protocol import Decoder
from sql.query.shop import Customer, Line, Order, orders, plain, write
from support.streams import MemorySender, StreamClient
from support.until import until

TENANTS = (1, 2, 3)


class TenantClient(StreamClient):
    """Notes every key in every byte that it received."""

    def __init__(self, feed, tenant):
        super().__init__(feed)
        self.tenant = tenant
        self.keys = set()
        self.senders = []

    def read(self, most=None):
        for message in Decoder().feed(self.sender.data):
            data = json.loads(message.data) if message.data else {}
            for item in data.get("orders", [data]):
                if "id" in item:
                    self.keys.add(item["id"])
        super().read(most)


class Writer:
    """Random transactions over the shop. Notes which tenants an order was ever of."""

    def __init__(self, engine, seed):
        self.engine = engine
        self.pick = random.Random(seed)
        self.tenants = {1: 1, 2: 2}
        self.orders = {1: 1, 2: 1, 3: 1, 4: 2}
        self.ever = defaultdict(set)
        self.next = 1000
        self.note()

    def note(self):
        for order, customer in self.orders.items():
            self.ever[order].add(self.tenants[customer])

    async def step(self):
        pick = self.pick
        tenants, orders = dict(self.tenants), dict(self.orders)
        statements = [self.statement() for _ in range(pick.randint(1, 4))]
        self.note()
        if pick.random() < 0.15:
            self.tenants, self.orders = tenants, orders
            async with self.engine.connect() as connection:
                for statement in statements:
                    await connection.execute(statement)
                await connection.rollback()
        else:
            await write(self.engine, *statements)

    def statement(self):
        pick, self.next = self.pick, self.next + 1
        roll = pick.random()
        order, customer = pick.choice([*self.orders]), pick.choice([*self.tenants])
        if roll < 0.1:
            self.tenants[self.next] = pick.choice(TENANTS)
            values = {"id": self.next, "tenant": self.tenants[self.next], "name": "new"}
            return sa.insert(Customer).values(**values)
        if roll < 0.25:
            self.orders[self.next] = customer
            return sa.insert(Order).values(id=self.next, customer_id=customer)
        if roll < 0.4:
            self.orders[order] = customer
            return sa.update(Order).where(Order.id == order).values(customer_id=customer)
        if roll < 0.5:
            self.tenants[customer] = pick.choice(TENANTS)
            changed = sa.update(Customer).where(Customer.id == customer)
            return changed.values(tenant=self.tenants[customer])
        if roll < 0.6:
            name = f"n{self.next}"
            return sa.update(Customer).where(Customer.id == customer).values(name=name)
        if roll < 0.8:
            return sa.insert(Line).values(id=self.next, order_id=order, total=pick.randrange(50))
        if roll < 0.9 or len(self.orders) < 5:
            return sa.update(Line).where(Line.order_id == order).values(total=pick.randrange(50))
        del self.orders[order]
        return sa.delete(Order).where(Order.id == order)


async def follow(engine, seed, steps):
    """Clients that come and go, to two processes, while a writer writes."""
    feed = Feed("orders", collection="orders", event="order")
    sides = [(Hub(), orders(engine)) for _ in range(2)]
    writer, pick = Writer(engine, seed), random.Random(seed)
    clients = [TenantClient(feed, tenant) for tenant in (*TENANTS, *TENANTS, None)]

    def slow():
        sender = MemorySender()
        sender.room = pick.choice([None, None, 1, 300])
        return sender

    async def connect(client):
        hub, query = pick.choice(sides)
        await client.connect(hub, query.optional(tenant=client.tenant))

    async def write():
        for _ in range(pick.randint(1, 4)):
            await writer.step()

    for client in clients:
        client.make_sender = slow
    try:
        for client in clients:
            await connect(client)
        for _ in range(steps):
            client, roll = pick.choice(clients), pick.random()
            if roll < 0.5:
                client.leave(pick.choice([None, 0, 1, 2]))
                # As it happens: a page is read while others commit.
                await asyncio.gather(write(), connect(client))
            else:
                await write()
                client.sender.drain()
                client.read()
        _, query = sides[0]
        for client in clients:
            expected = await query.optional(tenant=client.tenant).page(500)
            items = {change.item["id"]: dict(change.item) for change in expected.changes}

            def settled(client=client, items=items):
                client.sender.drain()
                client.read()
                return client.items == items

            try:
                await until(settled)
            except TimeoutError:
                wrong = {
                    key: (client.items.get(key), items.get(key))
                    for key in {*client.items, *items}
                    if client.items.get(key) != items.get(key)
                }
                raise AssertionError(f"tenant {client.tenant}: {wrong}") from None
        for client in clients:
            assert not client.resets
            if client.tenant is not None:
                foreign = {key for key in client.keys if client.tenant not in writer.ever[key]}
                assert not foreign
    finally:
        for client in clients:
            client.leave()
        for hub, _ in sides:
            await hub.close()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
async def test_every_client_ends_with_its_rows_and_never_hears_of_others(engine, seed):
    await follow(engine, seed, 40)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
async def test_many_more_clients(engine, seed):
    await follow(engine, seed, 150)


async def test_a_client_of_all_rows_gets_no_removal_of_a_row_that_moves(engine):
    query = orders(engine)
    feed = Feed("orders", collection="orders", event="order")
    hub = Hub()
    ada, bob, every = clients = [TenantClient(feed, tenant) for tenant in (1, 2, None)]
    try:
        for client in clients:
            await client.connect(hub, query.optional(tenant=client.tenant))
            client.sender.take()
        await write(engine, sa.update(Order).where(Order.id == 1).values(customer_id=2))
        await until(lambda: all(client.sender.data for client in clients))
        assert [one.event for one in ada.sender.take()] == ["order_removed"]
        assert [one.event for one in bob.sender.take()] == ["order"]
        assert [one.event for one in every.sender.take()] == ["order"]
    finally:
        for client in clients:
            client.leave()
        await hub.close()


async def test_what_comes_and_goes_between_two_reads_of_the_tail(engine):
    """A page that is read between them has a row of which the tail never hears."""
    query, hub = orders(engine), Hub()
    feed = Feed("orders", collection="orders", event="order")
    first, second = (TenantClient(feed, 1) for _ in range(2))
    other = plain(engine)
    armed, came, left = [], [], []

    def before(_connection, _cursor, statement, *_):
        # A page that looks by itself.
        if armed and not came and "headwater_links" in statement and "EXISTS" not in statement:
            came.append("page" if _connection is not None else "later")
            with other.begin() as connection:
                connection.execute(sa.insert(Order).values(id=9, customer_id=1))

    def after(_connection, _cursor, statement, *_):
        # The page's rows were read.
        if armed and "DESC" in statement and not left:
            left.append(True)
            with other.begin() as connection:
                connection.execute(sa.update(Order).where(Order.id == 9).values(customer_id=2))

    try:
        await first.connect(hub, query.where(tenant=1))
        await until(lambda: query.origin.head is not None)
        sa.event.listen(engine.sync_engine, "before_cursor_execute", before)
        sa.event.listen(engine.sync_engine, "after_cursor_execute", after)
        armed.append(True)
        await second.connect(hub, query.where(tenant=1))
        assert left
        if not came:
            before(None, None, "headwater_links")

        def settled():
            first.read()
            second.read()
            wanted = [1, 2, 3] if came[0] == "page" else [1, 2, 3, 9]
            return sorted(first.items) == sorted(second.items) == wanted

        await until(settled)
    finally:
        first.leave()
        second.leave()
        await hub.close()
        other.dispose()
