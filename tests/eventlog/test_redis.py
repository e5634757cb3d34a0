"""The engine on Valkey: the contract, and what only this server can do to a log."""

import pytest

from headwater.eventlog import EventLog, open_log
from headwater.testing import EventLogContract
from support.valkey import Valkey


class TestContract(EventLogContract):
    @pytest.fixture(autouse=True)
    def server(self, valkey: Valkey) -> None:
        self.valkey = valkey

    async def open(self) -> EventLog:
        async with self.valkey.client() as client:
            await client.flushall()
        return await self.reopen(None)

    async def reopen(self, log: EventLog | None) -> EventLog:
        opened = open_log(self.valkey.url)
        await opened.start()
        return opened

    async def wipe(self, log: EventLog) -> None:
        async with self.valkey.client() as client:
            await client.flushall()
