"""Pages against streams as a machine: rows, streams and clients come and go in any order.

After each step every open stream shows what a page shows, and so does a client that resumes at any
place of before.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headwater import Hub
from sql.test_pages_and_streams import filters, rows
from support.typed_rows import VALUES

KEYS = st.integers(1, 4)
# A filter, with what optional() is given beside it.
wanted = st.tuples(filters(), st.booleans())
_markers = itertools.count(1000)


class Client:
    """What a client shows: the rows of its page, and the changes since."""

    def __init__(self, selection):
        self.selection = selection
        self.rows = {}
        self.leave = None

    def take(self, changes):
        for change in changes:
            self.rows.pop(change.key["id"], None)
            if not change.removed:
                self.rows[change.key["id"]] = change.item


class Machine(RuleBasedStateMachine):
    """Rules for one table. ``typed``: what runs coroutines, and the table."""

    typed: tuple
    steps: Counter

    def __init__(self):
        super().__init__()
        self.runner, self.table = self.typed
        self.engine = self.table.engine
        self.rows = self.table.reader.model.table
        self.streams = []
        self.places = []
        self.dirty = False
        self.steps["examples"] += 1

    def run(self, coroutine):
        return self.runner.run(coroutine)

    @initialize()
    def begin(self):
        self.run(self._begin())

    async def _begin(self):
        await self._write([self.rows.delete()])
        self.hub = Hub(io_uring=False)
        self.end, self.reached = None, asyncio.Event()
        await self.hub.subscribe(self.table.where(), self._progress)

    def _progress(self, changes):
        self.end = changes[-1].place
        self.reached.set()

    def teardown(self):
        if hasattr(self, "hub"):
            self.run(self.hub.close())

    @rule(writes=st.lists(st.tuples(KEYS, st.none() | rows), min_size=1, max_size=3),
          committed=st.booleans())  # fmt: skip
    def write(self, writes, committed):
        """One transaction: upserts, and deletes where there are no values."""
        statements = []
        for key, values in writes:
            statements.append(self.rows.delete().where(self.rows.c.id == key))
            if values is not None:
                new = dict.fromkeys(VALUES) | values
                statements.append(self.rows.insert().values(id=key, **new))
        self.run(self._write(statements, committed))
        self.steps["write"] += 1

    @rule(key=KEYS, values=rows.filter(bool))
    def update(self, key, values):
        self.run(self._write([self.rows.update().where(self.rows.c.id == key).values(**values)]))
        self.steps["update"] += 1

    @rule(key=KEYS, other=st.integers(5, 8))
    def move(self, key, other):
        """Another key of the same row."""
        change = self.rows.update().where(self.rows.c.id == key).values(id=other)
        self.run(self._write([self.rows.delete().where(self.rows.c.id == other), change]))
        self.steps["move"] += 1

    async def _write(self, statements, committed=True):
        async with self.engine.connect() as connection:
            for statement in statements:
                await connection.execute(statement)
            await (connection.commit() if committed else connection.rollback())
        self.dirty = True

    @precondition(lambda self: len(self.streams) < 6)
    @rule(chosen=wanted, several=st.booleans())
    def open(self, chosen, several):
        equal, optional = chosen
        selection = (self.table.optional if optional else self.table.where)(**equal)
        if several:
            selection |= self.table.where(whole=list(range(-300, 5)))
        client = Client(selection)
        self.run(self._open(client))
        self.streams.append(client)
        self.steps["open"] += 1

    async def _open(self, client):
        early = []
        client.take = early.extend
        client.leave = await self.hub.subscribe(client.selection, lambda c: client.take(c))
        page = await client.selection.page(100)
        del client.take
        client.take(page.changes)
        client.take(early)
        self._remember(client, page)

    def _remember(self, client, page):
        self.places.append((client.selection, page.epoch, str(page.end), dict(client.rows)))
        del self.places[:-20]

    @precondition(lambda self: self.streams)
    @rule(at=st.integers(0, 99))
    def close(self, at):
        self.streams.pop(at % len(self.streams)).leave()
        self.steps["close"] += 1

    @precondition(lambda self: self.places)
    @rule(at=st.integers(0, 99), limit=st.sampled_from([1, 2, 100]))
    def resume(self, at, limit):
        self.run(self._resume(*self.places[at % len(self.places)], limit))
        self.steps["resume"] += 1

    async def _resume(self, selection, epoch, text, shown, limit):
        client = Client(selection)
        client.rows = dict(shown)
        place, more, count = await selection.locate(epoch, text), True, 0
        while more:
            count += 1
            assert count < 1000, "pages that never end"
            page = await selection.page(limit, after=place)
            client.take(page.changes)
            place, more = page.end, page.has_more
            self._remember(client, page)
        assert client.rows == await self._page(selection), "a client that resumed"

    async def _page(self, selection):
        page = await selection.page(100)
        assert not page.has_more
        return {change.key["id"]: change.item for change in page.changes}

    @invariant()
    def a_stream_shows_what_a_page_shows(self):
        if self.dirty and hasattr(self, "hub"):
            self.run(self._check())
            self.dirty = False

    async def _check(self):
        # The tail has come to the newest change once it delivered this one.
        marker = next(_markers)
        async with self.engine.begin() as connection:
            await connection.execute(self.rows.delete().where(self.rows.c.id >= 1000))
            await connection.execute(self.rows.insert().values(id=marker, **dict.fromkeys(VALUES)))
        head = (await self.table.where().page(1)).end
        async with asyncio.timeout(20):
            while self.end is None or not self.end.includes(head):
                self.reached.clear()
                await self.reached.wait()
        for client in self.streams:
            assert client.rows == await self._page(client.selection), client.selection.filter


def check(typed, examples, steps):
    counted = Counter()
    machine = type("Machine", (Machine,), {"typed": typed, "steps": counted})
    how = settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(machine, settings=how)
    return counted


def test_pages_and_streams_agree_whatever_comes_between(typed):
    check(typed, 8, 15)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_pages_and_streams_agree_whatever_comes_between_for_long(typed):
    counted = check(typed, 100, 30)
    print(dict(counted))
