"""Several processes on one SQLite log, and one that is killed."""

import asyncio
import signal
from pathlib import Path

import pytest

from headwater.eventlog import open_log
from headwater.testing._eventlog import Recorder
from support.log_writer import batches, everything, writer

pytestmark = pytest.mark.long


async def test_a_process_that_is_killed_leaves_whole_batches(tmp_path: Path) -> None:
    """kill -9 at any moment: what was acknowledged is there, nothing is half there."""
    url = f"sqlite:///{tmp_path}/events.db"
    next_batch = 0
    for _ in range(4):
        process = await writer(url, "w", next_batch, 1_000_000)
        assert process.stdout is not None
        acknowledged = next_batch
        async with asyncio.timeout(30):
            for _ in range(25):
                acknowledged = int(await process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = (await process.communicate())[0].split()
        acknowledged = max([acknowledged, *map(int, rest)])
        async with open_log(url) as log:
            found = batches(await everything(log))
            assert found[-1][1] in (acknowledged, acknowledged + 1), "acknowledged, and not there"
            # Perhaps the process had no answer to the last one: it sends it again.
            next_batch = found[-1][1] + 1
            again = [{"writer": "w", "batch": found[-1][1], "part": part} for part in range(5)]
            await log.append("t", again, key=f"w-{found[-1][1]}")
            found = batches(await everything(log))
        assert [number for _, number in found] == list(range(next_batch)), "doubled or left out"


async def test_two_processes_append_to_one_topic(tmp_path: Path) -> None:
    """Workers that write at the same time, followed by a third: one order, each once."""
    url = f"sqlite:///{tmp_path}/events.db"
    async with open_log(url) as log:
        follower = Recorder(30)
        await log.follow("t", follower)
        processes = [await writer(url, name, 0, 60) for name in ("a", "b")]
        for process in processes:
            await process.communicate()
            assert process.returncode == 0
        await follower.count(600)
        kept = await everything(log)
        assert follower.records == kept
        found = batches(kept)
        for name in ("a", "b"):
            assert [number for one, number in found if one == name] == list(range(60))
