"""What clients of a live query were sent is the query, at any snapshot, on both databases."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import configure_sqlite
from sql.query.tails import Client, Tail, queries_of
from sql.query.worlds import DOMAIN, World

# Transactions or parts of them that write before the tails begin.
FILL = 25


class Run:
    """Writers and tails over one world, in one thread."""

    def __init__(self, seed: int, engine: sa.Engine, *, queries: int, writers: int) -> None:
        self.pick = random.Random(seed)
        self.engine = self.reader = engine
        blind: sa.types.TypeEngine[str] = sa.String(20, "NOCASE")
        if engine.dialect.name == "postgresql":
            self.reader = engine.execution_options(isolation_level="REPEATABLE READ")
            blind = CITEXT()
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE EXTENSION citext")
        self.world = World.of(seed, queries, blind)
        self.dialect = engine.dialect.name
        self.world.metadata.create_all(engine)
        self.writers: list[sa.Connection | None] = [None] * writers
        self.tails: list[Tail] = []
        for number, derivation in enumerate(self.world.queries):
            made = queries_of(derivation, self.dialect, number)
            clients = [Client(made, each, engine.dialect) for each in self.conditions(derivation)]
            alone = self.pick.random() < 0.4
            self.tails.append(Tail(made, self.pick, clients[-1:] if alone else clients))

    def conditions(self, derivation: Any) -> list[list[Any]]:
        """Of the clients of one query: all rows, random conditions; of first rows two tenants."""
        if derivation.limit is not None:  # it has a window for each tenant
            tenant = derivation.select.selected_columns["tenant"].element
            return [[tenant == each] for each in self.pick.sample(range(DOMAIN), 2)]
        return [[], *(self.world.conditions(derivation) for _ in range(2))]

    def go(self, steps: int) -> None:
        for _ in range(FILL):
            self.write()
        for tail in self.tails:
            tail.step(self.reader)
        for _ in range(steps):
            self.write()
            if self.pick.random() < 0.15:
                self.pick.choice(self.tails).step(self.reader)
        for at, connection in enumerate(self.writers):
            if connection is not None:
                connection.commit()
                connection.close()
                self.writers[at] = None
        for tail in self.tails:
            before = tail.polls
            while tail.polls == before:
                tail.step(self.reader)

    def write(self) -> None:
        at = self.pick.randrange(len(self.writers))
        connection = self.writers[at]
        if connection is None:
            connection = self.writers[at] = self.engine.connect()
            if self.dialect == "postgresql":
                # Of this transaction only: a tail may get the connection next.
                connection.exec_driver_sql("SET LOCAL lock_timeout = '10ms'")
        roll = self.pick.random()
        if roll < 0.25:
            (connection.commit if roll < 0.2 else connection.rollback)()
            connection.close()
            self.writers[at] = None
            return
        try:
            with connection.begin_nested() as savepoint:
                for _ in range(self.pick.randint(1, 3)):
                    connection.execute(self.world.statement(self.dialect))
                if self.pick.random() < 0.15:
                    savepoint.rollback()
        except sa.exc.DBAPIError:
            pass  # a key that is there, or a row that another writer has

    @property
    def counts(self) -> Counter[str]:
        return Counter(
            compared=sum(tail.compared for tail in self.tails),
            polls=sum(tail.polls for tail in self.tails),
            partial=sum(tail.partial for tail in self.tails),
            resets=sum(tail.resets for tail in self.tails),
            early=sum(client.early for tail in self.tails for client in tail.clients),
            queries=len(self.world.queries),
            limited=sum(query.limit is not None for query in self.world.queries),
            tried=self.world.tried,
            segments=max(tail.segments for tail in self.tails),
        )


def on_sqlite(path, seed: int, *, queries: int, steps: int) -> Counter[str]:
    engine = configure_sqlite(sa.create_engine(f"sqlite:///{path}"), synchronous="OFF")
    try:
        run = Run(seed, engine, queries=queries, writers=1)
        run.go(steps)
        return run.counts
    finally:
        engine.dispose()


def on_postgresql(postgres, seed: int, *, queries: int, steps: int) -> Counter[str]:
    name = postgres.database()
    engine = sa.create_engine(postgres.url(name))
    try:
        run = Run(seed, engine, queries=queries, writers=3)
        run.go(steps)
        return run.counts
    finally:
        engine.dispose()
        postgres.drop(name)


async def by_asyncpg(postgres, seed: int, *, queries: int, steps: int) -> Counter[str]:
    name = postgres.database()
    url = sa.make_url(postgres.url(name)).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(url)

    def follow(_: sa.Connection) -> Counter[str]:
        run = Run(seed, engine.sync_engine, queries=queries, writers=3)
        run.go(steps)
        return run.counts

    try:
        async with engine.connect() as connection:
            return await connection.run_sync(follow)
    finally:
        await engine.dispose()
        postgres.drop(name)


def check(counts: Counter[str], queries: int) -> None:
    """The run did what it is for, and it says how much."""
    print(dict(counts))
    assert counts["queries"] == queries
    assert counts["polls"] >= queries


QUERIES, STEPS = 25, 50


@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(each, marks=pytest.mark.long) for each in range(8, 48))]
)
def test_every_map_is_the_query_on_sqlite(tmp_path, seed):
    check(on_sqlite(tmp_path / "data.db", seed, queries=QUERIES, steps=STEPS), QUERIES)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(30))
def test_every_map_is_the_query_on_postgresql(postgres, seed):
    check(on_postgresql(postgres, seed, queries=QUERIES, steps=STEPS), QUERIES)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
async def test_every_map_is_the_query_by_asyncpg(postgres, seed):
    check(await by_asyncpg(postgres, seed, queries=QUERIES, steps=STEPS), QUERIES)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_more_on_sqlite(tmp_path, seed):
    check(on_sqlite(tmp_path / "data.db", seed, queries=20, steps=1000), 20)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_more_on_postgresql(postgres, seed):
    check(on_postgresql(postgres, seed, queries=20, steps=1000), 20)
