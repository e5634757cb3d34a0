"""The contract of event logs as tests, for every engine, also one of your own."""

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

    ``open`` is called once per test, before anything else, and what it returns is closed
    afterwards. ``reopen`` is for engines that declare ``durable`` or ``multi_process``. What an
    engine does not declare in its ``capabilities`` is skipped. ``patience`` (seconds, 10 unless
    overridden) is how long a test waits for what must come.

    The fault kit is the engine's own ways to harm a log: ``keep_copy`` and ``go_back``, ``purge``,
    ``remove``, ``lose_topic``, ``intrude``, ``refuse`` and ``stall``. A test whose way is not
    overridden is skipped.

    It needs pytest and pytest-asyncio (the tests carry ``pytest.mark.asyncio``).
    """
