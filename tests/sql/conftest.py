import asyncio
from contextlib import suppress

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.sql import Table, sqlite_engine
from support.tables import Base, Clock
from support.typed_rows import typed_table

BLIND = (
    "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    "CREATE EXTENSION citext",
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.db"


@pytest.fixture
async def engine(path):
    engine = sqlite_engine(f"sqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)]
)
def typed(request, tmp_path_factory):
    """A table, and what runs coroutines with it."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("typed") / "data.db"
        url, collation = f"sqlite:///{path}", "NOCASE"
    else:
        postgres = request.getfixturevalue("postgres")
        url = postgres.url(name := postgres.database())
        with psycopg.connect(postgres.conninfo(name), autocommit=True) as connection:
            for statement in BLIND:
                # Not every server is built with both.
                with suppress(psycopg.errors.FeatureNotSupported):
                    connection.execute(statement)
            blind = connection.execute("SELECT 1 FROM pg_collation WHERE collname = 'blind'")
            collation = "blind" if blind.fetchone() else "C"
    table, metadata = typed_table(request.param, collation)
    engine = sa.create_engine(url)
    metadata.create_all(engine)
    engine.dispose()
    with asyncio.Runner() as runner:
        made = sqlite_engine(url) if request.param == "sqlite" else create_async_engine(url)
        yield runner, Table(made, table)
        runner.run(made.dispose())
