"""A page and a stream never disagree on what is in a feed, whatever a column's type."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater import Hub
from headwater.sql import NULL
from support.typed_rows import VALUES

_names = itertools.count()

rows = st.fixed_dictionaries({}, optional={n: st.sampled_from(v[0]) for n, v in VALUES.items()})
changes = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4), rows),
    st.tuples(st.just("delete"), st.integers(1, 4), st.just({})),
)


@st.composite
def filters(draw):
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2, unique=True))
    wanted = {}
    for name in names:
        one = st.sampled_from([*VALUES[name][0], *VALUES[name][1], NULL])
        wanted[name] = draw(st.one_of(one, st.lists(one, max_size=3)))
    return wanted


async def run(source, before, wanted, after) -> None:
    engine, table = source.engine, source.reader.model.table
    async with engine.begin() as connection:
        await connection.execute(table.delete())
    for change in before:
        await apply(engine, table, change)
    selections = [source.where(**each) for each in wanted]
    streams = [Shown() for _ in selections]
    hub = Hub(io_uring=False)
    try:
        for selection, stream in zip(selections, streams, strict=True):
            await hub.subscribe(selection, stream.take)
            stream.start(await selection.page(100))
        every = Shown()
        await hub.subscribe(source.where(), every.take)
        for change in after:
            await apply(engine, table, change)
        await apply(engine, table, ("write", 100 + next(_names), {}))
        head = (await source.where().page(1)).end
        await every.until(lambda: any(each.place.includes(head) for each in every.changes))
        for each, selection, stream in zip(wanted, selections, streams, strict=True):
            there = {change.key["id"] for change in (await selection.page(100)).changes}
            assert stream.live() == there, f"a stream of {each}"
            resumed = await selection.page(100, after=stream.began)
            stream.changes = list(resumed.changes)
            assert stream.live() == there, f"a client of {each} that resumed"
    finally:
        await hub.close()


async def apply(engine, table, change) -> None:
    kind, key, values = change
    async with engine.begin() as connection:
        if kind == "delete":
            await connection.execute(table.delete().where(table.c.id == key))
            return
        new = dict.fromkeys(VALUES) | values
        changed = await connection.execute(table.update().where(table.c.id == key).values(new))
        if not changed.rowcount:
            await connection.execute(table.insert().values(id=key, **new))


class Shown:
    """What a client of a stream shows."""

    def __init__(self) -> None:
        self.changes = []
        self.first = set()
        self._more = asyncio.Event()

    def start(self, page) -> None:
        self.began = page.end
        self.first = {change.key["id"] for change in page.changes}

    def take(self, changes) -> None:
        self.changes += changes
        self._more.set()

    def live(self) -> set[int]:
        keys = set(self.first)
        for change in self.changes:
            (keys.discard if change.removed else keys.add)(change.key["id"])
        return keys

    async def until(self, holds) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._more.clear()
                await self._more.wait()


def check(typed, examples: int) -> None:
    runner, table = typed

    @settings(max_examples=examples, deadline=None)
    @given(
        st.lists(changes, max_size=3),
        st.lists(filters(), min_size=1, max_size=8),
        st.lists(changes, max_size=6),
    )
    def law(before, wanted, after):
        runner.run(run(table, before, wanted, after))

    law()


def test_a_page_and_a_stream_show_the_same_rows(typed):
    check(typed, 12)


@pytest.mark.soak
def test_a_page_and_a_stream_show_the_same_rows_in_many_examples(typed):
    check(typed, 2000)


def test_each_value_of_each_type_is_compared_alike(typed):
    runner, table = typed
    wanted = [{n: each} for n, values in VALUES.items() for each in (*values[0], *values[1], NULL)]
    most = max(len(values[0]) for values in VALUES.values())
    rows = [{n: v[0][at % len(v[0])] for n, v in VALUES.items()} for at in range(most)]
    writes = [("write", key, row) for key, row in enumerate(rows, 1)]
    # Each row then has the values of the next one, and half of them go.
    moves = [("write", key, rows[key % most]) for key in range(1, most + 1)]
    deletes = [("delete", key, {}) for key in range(1, most + 1, 2)]
    runner.run(run(table, [], wanted, [*writes, *moves, *deletes]))
