"""Other processes that append to an event log, and the check of what they have appended."""

from __future__ import annotations

import asyncio
import json
import sys

from headwater.eventlog import START, EventLog, Record

# Appends batches of five until it is killed, or as many as were asked for. It prints the number of
# each batch that was acknowledged.
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
    """Returns the batches in order; fails if one is not whole."""
    assert [record.offset[0] for record in records] == list(range(1, len(records) + 1))
    found = []
    for start in range(0, len(records), 5):
        batch = [dict(record.data) for record in records[start : start + 5]]
        name, number = batch[0]["writer"], batch[0]["batch"]
        whole = [{"writer": name, "batch": number, "part": part} for part in range(5)]
        assert batch == whole, f"a batch is torn: {json.dumps(batch)}"
        found.append((name, number))
    return found
