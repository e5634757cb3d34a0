"""Several processes on one PostgreSQL log, and one that is killed."""

import asyncio
import signal

import pytest

from headwater.eventlog import open_log
from headwater.testing._eventlog import Recorder
from support.log_writer import batches, everything, writer

pytestmark = pytest.mark.long


async def test_a_process_that_is_killed_leaves_whole_batches(url):
    """kill -9 at any moment: what was acknowledged is there, nothing is half there, and the
    followers elsewhere have all of it, though no notice of the last commit was sent.
    """
    next_batch = 0
    async with open_log(url) as log:
        follower = Recorder(20)
        await log.follow("t", follower)
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
            found = batches(await everything(log))
            assert found[-1][1] in (acknowledged, acknowledged + 1), "acknowledged, and not there"
            await follower.count(5 * len(found))
            # Perhaps the process had no answer to the last one: it sends it again.
            last = found[-1][1] + 1
            again = [{"writer": "w", "batch": last, "part": part} for part in range(5)]
            await log.append("t", again, key=f"w-{last}")
            await log.append("t", again, key=f"w-{last}")
            found = batches(await everything(log))
            assert [number for _, number in found] == list(range(last + 1)), "doubled or left out"
            next_batch = last + 1
        await follower.count(5 * len(found))
        assert follower.records == await everything(log)


async def test_two_processes_append_to_one_topic(url):
    """Workers that write at the same time, followed by a third: one order, each once."""
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
