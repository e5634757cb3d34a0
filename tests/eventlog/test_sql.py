"""The engine on SQLite: the contract on a real file."""

from pathlib import Path

import pytest

from headwater.eventlog import EventLog, open_log
from headwater.eventlog.sql import METADATA, SqlLog
from headwater.testing import EventLogContract


class TestContract(EventLogContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/events.db"

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
            await connection.run_sync(METADATA.drop_all)
        await other.close()
