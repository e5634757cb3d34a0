"""Several processes on one SQLite log, and one that is killed."""

import asyncio
import json
import signal
import sys
from pathlib import Path

from headwater.eventlog import EventLog, Record, open_log
from headwater.eventlog.record import START
from headwater.testing.eventlog import Recorder

# Appends batches of five until it is killed, or as many as it is told; tells each that it was
# told is kept.
WRITER = """
import asyncio, itertools, sys
from headwater.eventlog import open_log

async def main(url, name, first, last):
    async with open_log(url) as log:
        for n in range(first, last):
            batch = [{"writer": name, "batch": n, "part": part} for part in range(5)]
            await log.append("t", batch, key=f"{name}-{n}")
            print(n, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


async def writer(url: str, name: str, first: int, last: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, url, name, str(first), str(last), stdout=-1
    )


async def everything(log: EventLog) -> list[Record]:
    records: list[Record] = []
    while page := (await log.read("t", records[-1].offset if records else START, 1000)).records:
        records += page
    return records


def batches(records: list[Record]) -> list[tuple[str, int]]:
    """The batches in order; fails on one that is not whole."""
    assert [record.offset[0] for record in records] == list(range(1, len(records) + 1))
    found = []
    for start in range(0, len(records), 5):
        batch = [dict(record.data) for record in records[start : start + 5]]
        name, number = batch[0]["writer"], batch[0]["batch"]
        whole = [{"writer": name, "batch": number, "part": part} for part in range(5)]
        assert batch == whole, f"a batch is torn: {json.dumps(batch)}"
        found.append((name, number))
    return found


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
            # The process did not hear of the last one perhaps: it sends it again.
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
