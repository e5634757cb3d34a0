"""A process that produces runs until it is ended: ``producer.py URL LEASE COUNT [BLOCK]``.

It prints the id of each run. After the first line that it reads it sends a delta in each run every
50 ms; with BLOCK it then blocks its event loop for that many seconds and ends the runs as done.
"""

from __future__ import annotations

import asyncio
import sys
import time

from headwater.eventlog import open_log
from headwater.runs import Run, Runs

URL, LEASE, COUNT, *BLOCK = sys.argv[1:]


async def main() -> None:
    begin = asyncio.Event()

    async def produce(run: Run) -> None:
        await begin.wait()
        for n in range(1_000_000):
            await run.delta(f"{n} ")
            if BLOCK:
                await run.flush()
                return
            await asyncio.sleep(0.05)  # the pace of a model

    async with open_log(URL) as log, Runs(log, lease=float(LEASE), grace=1.0) as runs:
        for _ in range(int(COUNT)):
            created = await runs.create("/a", "ann", handler=produce)
            print(created.state.id, flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if BLOCK:
            time.sleep(float(BLOCK[0]))  # what is tested: a handler that computes
        begin.set()
        await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main())
