"""The engine on NATS: the contract, and what only this server can do to a log."""

import pytest

from headwater.eventlog import EventLog, open_log
from headwater.testing import EventLogContract
from support.nats import Nats


class TestContract(EventLogContract):
    @pytest.fixture(autouse=True)
    def server(self, nats: Nats) -> None:
        self.nats = nats

    async def open(self) -> EventLog:
        await self.nats.wipe()
        return await self.reopen(None)

    async def reopen(self, log: EventLog | None) -> EventLog:
        opened = open_log(self.nats.url)
        await opened.start()
        return opened

    async def wipe(self, log: EventLog) -> None:
        await self.nats.wipe()
