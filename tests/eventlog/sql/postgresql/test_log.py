"""The contract over PostgreSQL, on a real server."""

from collections.abc import Iterator

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from headwater.eventlog import EventLog, open_log
from headwater.eventlog.sql import SqlLog, drop_tables
from headwater.testing import EventLogContract
from support.postgres import Postgres


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


@pytest.mark.soak
class TestContractWithoutNotices(TestContract):
    """A log without NOTIFY, on an engine of the application's own."""

    async def open(self) -> EventLog:
        class Owned(SqlLog):
            async def close(self) -> None:
                await super().close()
                await self.engine.dispose()

        url = self.url.replace("postgresql:", "postgresql+psycopg:")
        return Owned(create_async_engine(url), notify=False)
