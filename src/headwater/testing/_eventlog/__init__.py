"""The contract of event logs as tests, for every engine, including one of your own."""

from __future__ import annotations

from headwater.testing._eventlog._faults import FaultContract
from headwater.testing._eventlog._following import FollowingContract, StorageContract
from headwater.testing._eventlog._forgetting import ForgettingContract
from headwater.testing._eventlog._harness import Recorder
from headwater.testing._eventlog._records import AppendingContract, ReadingContract
from headwater.testing._eventlog._topics import TopicContract, TrimmingContract

__all__ = ["EventLogContract", "Recorder"]


class EventLogContract(
    AppendingContract,
    ReadingContract,
    FollowingContract,
    TrimmingContract,
    ForgettingContract,
    StorageContract,
    TopicContract,
    FaultContract,
):
    """What every event log does. Subclass it in a test module, and pytest runs all of it.

    ::

        from headwater.testing import EventLogContract

        class TestMyLog(EventLogContract):
            @pytest.fixture(autouse=True)
            def place(self, tmp_path):
                self.path = tmp_path / "log"

            async def open(self):                  # a started log on empty storage
                return await start(MyLog(self.path))

            async def reopen(self, log):           # a second log on the same storage
                return await start(MyLog(self.path))

            async def wipe(self, log):             # destroy the storage behind log's back
                ...

    Each test calls ``open`` once, as the fixture ``log``, and closes that log at its end.
    ``reopen`` is for engines that declare ``durable`` or ``multi_process``. Tests of what an engine
    does not declare in its ``capabilities`` are skipped. A test waits for ``patience`` seconds (10
    unless overridden) for what must come.

    The fault kit has methods that harm a log: ``keep_copy`` and ``go_back``, ``purge``, ``remove``,
    ``lose_topic``, ``intrude``, ``refuse`` and ``stall``. The tests of a method that is not
    overridden are skipped.

    It needs pytest and pytest-asyncio (the tests carry ``pytest.mark.asyncio``).
    """
