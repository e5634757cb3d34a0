"""The contract over PostgreSQL, on a real server."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.eventlog import EventLog, Offset, Record, open_log
from headwater.eventlog.sql import SqlLog, drop_tables
from headwater.testing import EventLogContract
from support.log_rounds import rounds
from support.postgres import Postgres

pytestmark = pytest.mark.long

TABLES = ("log", "topics", "events")
OF = "topic_id = (SELECT id FROM headwater_topics WHERE name = '%s')"


class TestContract(EventLogContract):
    """A log that opens its connections itself."""

    @pytest.fixture(autouse=True)
    def place(self, postgres: Postgres) -> Iterator[None]:
        name = postgres.database()
        self.url = f"postgresql://postgres@/{name}?host={postgres.folder}"
        yield
        postgres.drop(name)

    async def open(self) -> EventLog:
        log = open_log(self.url)
        await log.start()
        return log

    async def reopen(self, log: EventLog) -> EventLog:
        return await self.open()

    async def wipe(self, log: EventLog) -> None:
        other = open_log(self.url)
        assert isinstance(other, SqlLog)
        async with other.engine.begin() as connection:
            await connection.run_sync(drop_tables)
        await other.close()

    async def run(self, *statements: str) -> None:
        """As another program does, in one transaction."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            for statement in statements:
                await connection.execute(statement)

    async def keep_copy(self, log: EventLog) -> str:
        await self.run(
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",  # one moment of all three
            *(f"DROP TABLE IF EXISTS kept_{name}" for name in TABLES),
            *(f"CREATE TABLE kept_{name} AS TABLE headwater_{name}" for name in TABLES),
        )
        return "kept"

    async def go_back(self, log: EventLog, copy: str) -> None:
        await self.run(
            *(f"DELETE FROM headwater_{name}" for name in TABLES),
            *(f"INSERT INTO headwater_{name} SELECT * FROM {copy}_{name}" for name in TABLES),
        )

    @pytest.mark.soak
    @pytest.mark.parametrize("writers", [1, 20])
    @pytest.mark.parametrize("streams", [True, False], ids=["streams", "away"])
    async def test_rounds_with_followers_in_two_processes(
        self, writers: int, streams: bool
    ) -> None:
        """And with clients that are away. It prints its figures."""
        print(await rounds(self, self.url, writers, streams=streams))

    async def purge(self, log: EventLog, topic: str, last: Offset) -> None:
        await self.run(f"DELETE FROM headwater_events WHERE {OF % topic} AND number <= {last}")

    async def remove(self, log: EventLog, record: Record) -> bool:
        await self.run(
            f"DELETE FROM headwater_events WHERE {OF % record.topic} AND number = {record.offset}"
        )
        return True

    async def lose_topic(self, log: EventLog, topic: str) -> None:
        await self.run(
            f"DELETE FROM headwater_events WHERE {OF % topic}",
            f"DELETE FROM headwater_topics WHERE name = '{topic}'",
        )

    async def intrude(self, log: EventLog, topic: str) -> None:
        await self.run(
            f"UPDATE headwater_topics SET latest = latest + 1 WHERE name = '{topic}'",
            "INSERT INTO headwater_events (topic_id, number, at, size, part, data)"
            " SELECT id, latest, 0, 2, 0, '21 degrees' FROM headwater_topics"
            f" WHERE name = '{topic}'",
        )

    @asynccontextmanager
    async def refuse(self, log: EventLog) -> AsyncIterator[None]:
        name = self.url.split("@/")[1].partition("?")[0]
        cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        other = self.url.replace(f"/{name}?", "/postgres?")
        async with await psycopg.AsyncConnection.connect(other, autocommit=True) as connection:
            await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await connection.execute(cut)
            yield
            await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.soak
class TestContractWithoutNotices(TestContract):
    """A log without NOTIFY, on an engine of the application's own."""

    @asynccontextmanager
    async def stall(self, log: EventLog) -> AsyncIterator[None]:
        """It takes the 20 s of the log's patience."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute("LOCK TABLE headwater_events, headwater_topics")
            yield

    async def open(self) -> EventLog:
        class Owned(SqlLog):
            async def close(self) -> None:
                await super().close()
                await self.engine.dispose()

        url = self.url.replace("postgresql:", "postgresql+psycopg:")
        log = Owned(create_async_engine(url), notify=False)
        await log.start()
        return log
