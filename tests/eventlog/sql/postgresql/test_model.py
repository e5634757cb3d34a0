"""The engine on PostgreSQL against the one in memory."""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import settings
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from support.log_model import SqlAgainstMemory

pytestmark = pytest.mark.long

# One database for all examples, which empty it.
PLACE: list[str] = []


@pytest.fixture(autouse=True)
def place(url: str) -> Iterator[None]:
    PLACE[:] = [url]
    yield
    PLACE.clear()


class PostgresqlAgainstMemory(SqlAgainstMemory):
    def engine(self) -> AsyncEngine:
        return create_async_engine(PLACE[0].replace("postgresql:", "postgresql+psycopg:"))

    def remove(self) -> None:
        with psycopg.connect(PLACE[0]) as connection:
            connection.execute("DROP TABLE headwater_log, headwater_topics, headwater_events")


class LongPostgresqlAgainstMemory(PostgresqlAgainstMemory):
    """The same, with more and longer runs."""


PostgresqlAgainstMemory.TestCase.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, print_blob=True
)
LongPostgresqlAgainstMemory.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, print_blob=True
)
TestPostgresqlAgainstMemory = PostgresqlAgainstMemory.TestCase
TestLongPostgresqlAgainstMemory = pytest.mark.soak(LongPostgresqlAgainstMemory.TestCase)
