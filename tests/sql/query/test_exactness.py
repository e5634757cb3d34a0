"""What a client of a live query was sent is the query, at any snapshot, on both databases."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import sqlalchemy as sa

from headwater.sql import configure_sqlite
from sql.query.tails import Tail, queries_of
from sql.query.worlds import World


class Run:
    """Writers and tails over one world, in one thread."""

    def __init__(self, seed: int, engine: sa.Engine, *, queries: int, writers: int) -> None:
        self.pick = random.Random(seed)
        self.world = World.of(seed, queries)
        self.engine = self.reader = engine
        if engine.dialect.name == "postgresql":
            self.reader = engine.execution_options(isolation_level="REPEATABLE READ")
        self.dialect = engine.dialect.name
        self.world.metadata.create_all(engine)
        self.writers: list[sa.Connection | None] = [None] * writers
        self.tails: list[Tail] = []
        for number, derivation in enumerate(self.world.queries):
            made = queries_of(derivation, self.dialect, number)
            self.tails += [
                # A query with LIMIT has a window for each tenant.
                Tail(made, self.pick, derivation.limit and 0, filtered=False),
                Tail(made, self.pick, self.pick.randrange(4), filtered=False),
                Tail(made, self.pick, self.pick.randrange(4), filtered=True),
            ]

    def go(self, steps: int) -> None:
        for _ in range(steps):
            self.write()
            if self.pick.random() < 0.4:
                self.pick.choice(self.tails).step(self.reader)
        for at, connection in enumerate(self.writers):
            if connection is not None:
                connection.commit()
                connection.close()
                self.writers[at] = None
        for tail in self.tails:
            before = tail.compared
            while tail.compared == before:
                tail.step(self.reader)

    def write(self) -> None:
        at = self.pick.randrange(len(self.writers))
        connection = self.writers[at]
        if connection is None:
            connection = self.writers[at] = self.engine.connect()
            if self.dialect == "postgresql":
                connection.exec_driver_sql("SET lock_timeout = '10ms'")
                connection.commit()
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
            partial=sum(tail.partial for tail in self.tails),
            resets=sum(tail.resets for tail in self.tails),
            early=sum(tail.early for tail in self.tails),
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


def check(counts: Counter[str], queries: int) -> None:
    """The run did what it is for, and it says how much."""
    print(dict(counts))
    assert counts["queries"] == queries
    assert counts["compared"] >= 3 * queries


@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(each, marks=pytest.mark.long) for each in range(6, 12))]
)
def test_every_map_is_the_query_on_sqlite(tmp_path, seed):
    check(on_sqlite(tmp_path / "data.db", seed, queries=10, steps=80), 10)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(8))
def test_every_map_is_the_query_on_postgresql(postgres, seed):
    check(on_postgresql(postgres, seed, queries=10, steps=80), 10)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_more_on_sqlite(tmp_path, seed):
    check(on_sqlite(tmp_path / "data.db", seed, queries=10, steps=600), 10)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_many_more_on_postgresql(postgres, seed):
    check(on_postgresql(postgres, seed, queries=10, steps=600), 10)
