"""Producers that die, and those that only seem to."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import RunCancelled, SourceUnavailableError
from headwater.eventlog import EventLog, MemoryLog, open_log
from headwater.eventlog import Run as Batch
from headwater.feeds._clock import set_ahead
from headwater.runs import Run, Runs
from support.until import until

PRODUCER = Path(__file__).parent / "producer.py"


class Producer:
    """Another process that produces runs.

    Attributes:
        ids: its runs.
    """

    def __init__(self, process: asyncio.subprocess.Process, ids: list[str]) -> None:
        self._process = process
        self.ids = ids

    def begin(self) -> None:
        """Let it send."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)


@asynccontextmanager
async def producing(url: str, lease: float, count: int, *more: str) -> AsyncIterator[Producer]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PRODUCER), url, str(lease), str(count), *more),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ids = [(await process.stdout.readline()).decode().strip() for _ in range(count)]
        assert all(ids), "it could not begin"
        yield Producer(process, ids)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def follow(runs: Runs, run_id: str) -> list[Any]:
    async with asyncio.timeout(240):
        return [event async for event in runs.follow(run_id)]


def held_up() -> float:
    """Seconds for which this thread was ready and other programs had the processors (Linux)."""
    file = Path("/proc/thread-self/schedstat")
    return int(file.read_text().split()[1]) / 1e9 if file.is_file() else 0.0


async def _held_up_after(seconds: float) -> float:
    await asyncio.sleep(seconds)  # until then the producer may be alive
    return held_up()


async def kill_and_watch(url: str, lease: float, count: int, followers: int) -> float:
    """Kill a producer. Returns the seconds until the last follower had the end.

    They are of this process: after the lease, those in which others kept it from running do not
    count.
    """
    async with open_log(url) as log, Runs(log, lease=lease) as runs:
        async with producing(url, lease, count) as producer:
            following = [
                asyncio.create_task(follow(runs, run_id))
                for run_id in producer.ids
                for _ in range(followers)
            ]
            producer.begin()
            await until(lambda: _has_output(log, runs, producer.ids[-1]), 30)
            producer.signal(signal.SIGKILL)
            killed, waited = time.monotonic(), asyncio.create_task(_held_up_after(lease))
            found = await asyncio.gather(*following)
        took = time.monotonic() - killed
        if waited.done():
            took -= held_up() - waited.result()
        for events in found:
            assert [one.data for one in events if one.name == "end"] == [{"state": "lost"}]
            assert events[-1].name == "end", "something came after the end"
            text = "".join(one.data["text"] for one in events[:-1])
            assert text == "".join(f"{n} " for n in range(len(text.split()))), "a word is missing"
        waited.cancel()
        for run_id in producer.ids[:3]:
            state = await runs.state(run_id)
            assert state is not None and state.state == "lost" and "died" in (state.error or "")
        return took


async def _has_output(log: EventLog, runs: Runs, run_id: str) -> bool:
    async for events in (await runs.reader(run_id)).events():
        return bool(events)
    return False


async def test_a_killed_producer_is_noticed(url: str) -> None:
    """Each follower gets one end, and nothing after it."""
    assert await kill_and_watch(url, 3.0, 3, 2)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_two_hundred_runs_with_three_followers_each_end_within_two_seconds(url: str) -> None:
    """Of the lease, which their users may have to wait for anyway."""
    lease = 5.0
    took = await kill_and_watch(url, lease, 200, 3)
    print(f"the last of 600 followers had the end {took:.2f} s after the kill; lease {lease} s")
    assert took < lease + 2


async def test_a_run_without_followers_is_noticed_when_somebody_asks(url: str) -> None:
    """A page that is opened a day later does not show a run that runs for ever."""
    async with producing(url, 1.0, 1) as producer:
        producer.signal(signal.SIGKILL)
    async with open_log(url) as log, Runs(log, lease=1.0) as runs:
        assert (await runs.state(producer.ids[0])).state == "running"
        await until(lambda: _ended(runs, producer.ids[0]))
        assert (await runs.state(producer.ids[0])).state == "lost"


async def _ended(runs: Runs, run_id: str) -> bool:
    found = await runs.state(run_id)
    return found is not None and found.ended


# A lease, and the runs of a process: as they are by default, and long.
LONG = pytest.param(30.0, 1000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])


@pytest.mark.parametrize(("lease", "count"), [(2.0, 2), LONG])
async def test_a_handler_that_blocks_its_loop_is_not_dead(
    url: str, lease: float, count: int
) -> None:
    """Signs of life come from a thread."""
    blocked = 4.0 if lease == 2.0 else 20.0
    async with open_log(url) as log, Runs(log, lease=lease) as runs:
        async with producing(url, lease, count, str(blocked)) as producer:
            following = [asyncio.create_task(follow(runs, one)) for one in producer.ids]
            producer.begin()
            for events in await asyncio.gather(*following):
                assert events[-1].data == {"state": "done"}


@pytest.mark.parametrize(("lease", "count"), [(6.0, 2), LONG])
async def test_a_process_that_is_stopped_for_a_while_is_not_dead(
    url: str, lease: float, count: int
) -> None:
    """Nor is one whose clock is set."""
    stopped = 0.5 if lease == 6.0 else 7.0
    async with open_log(url) as log, Runs(log, lease=lease) as runs:
        async with producing(url, lease, count) as producer:
            producer.begin()
            await until(lambda: _has_output(log, runs, producer.ids[0]))
            producer.signal(signal.SIGSTOP)
            try:
                for hours in (1, -1, 0):
                    set_ahead(timedelta(hours=hours))
                    await asyncio.sleep(stopped)  # the time that it is stopped for
            finally:
                set_ahead(timedelta())
                producer.signal(signal.SIGCONT)
            await asyncio.sleep(lease * 2 / 3)  # in which it would be called lost
            states = {(await runs.state(one)).state for one in producer.ids}
            assert states == {"running"}, f"{states} of runs that are produced"
            producer.begin()
            for run_id in producer.ids:
                assert (await follow(runs, run_id))[-1].data == {"state": "lost"}, "it was stopped"


class Cable:
    """What lies between a process and its log."""

    def __init__(self) -> None:
        self.cut = False
        self.writes: list[Any] = []

    def through(self, log: EventLog) -> EventLog:
        """The same log, which is away while the cable is cut."""
        for name in ("append", "read", "latest", "bounds"):
            setattr(log, name, self._wrapped(getattr(log, name), log.name))
        another = log.another
        log.another = lambda: self.through(another())  # type: ignore[method-assign]
        return log

    def _wrapped(self, call: Any, name: str) -> Any:
        async def wrapped(*args: Any, **options: Any) -> Any:
            if self.cut:
                raise SourceUnavailableError(name, "the cable is cut")
            found = await call(*args, **options)
            if call.__name__ == "append" and ":r:" in args[0]:
                self.writes.append(args[1])
            return found

        return wrapped


@pytest.mark.parametrize(
    ("lease", "away", "lost"),
    [
        (3.0, 1.0, False),
        (1.5, 3.0, True),
        pytest.param(30.0, 20.0, False, marks=[pytest.mark.soak, pytest.mark.timeout(300)]),
        pytest.param(30.0, 60.0, True, marks=[pytest.mark.soak, pytest.mark.timeout(300)]),
    ],
)
async def test_a_log_that_is_away(url: str, lease: float, away: float, lost: bool) -> None:
    """For less than a lease it delays a run; for longer its producer stops by itself."""
    raised: list[str] = []
    cable = Cable()

    async def answer(run: Run) -> None:
        n = 0
        try:
            while not (n > 20 and not cable.cut and not lost):
                await run.delta(f"{n} ")
                n += 1
                await asyncio.sleep(0.02)  # the pace of a model
        except asyncio.CancelledError:
            try:
                await run.delta("more")
            except RunCancelled as error:
                raised.append(error.reason)
            raise

    async with open_log(url) as log, Runs(log, lease=lease) as watcher:
        async with open_log(url) as far, Runs(cable.through(far), lease=lease) as runs:
            await watcher.start()
            run_id = (await runs.create("/a", "ann", handler=answer)).state.id
            await until(lambda: len(cable.writes) > 2)
            cable.cut = True
            await asyncio.sleep(away)  # the outage
            cable.cut = False
            written = len(cable.writes)
            events = await follow(watcher, run_id)
            assert events[-1].data == {"state": "lost" if lost else "done"}
            assert [one.name for one in events].count("end") == 1
            text = "".join(one.data["text"] for one in events[:-1])
            assert text == "".join(f"{n} " for n in range(len(text.split()))), "a word is missing"
            if lost:
                await until(lambda: raised == ["lost"])
                later = [one for one in cable.writes[written:] if isinstance(one, list)]
                assert not later, f"it wrote {later} after it was cut off for a lease"
                again = (await runs.create("/a", "ann", handler=_quick)).state.id
                assert (await follow(watcher, again))[-1].data == {"state": "done"}, "it goes on"


async def _quick(run: Run) -> None:
    await run.delta("x")


async def test_a_producer_that_is_cut_off_stops_by_itself(url: str) -> None:
    """Nobody else is there to say so, and the log is back when its lease is over."""
    cable = Cable()
    begun = asyncio.Event()

    async def answer(run: Run) -> None:
        begun.set()
        for n in range(1_000_000):
            await run.delta(f"{n} ")
            await asyncio.sleep(0.02)  # the pace of a model

    async with open_log(url) as far, Runs(cable.through(far), lease=1.0) as runs:
        run_id = (await runs.create("/a", "ann", handler=answer)).state.id
        await begun.wait()
        await until(lambda: len(cable.writes) > 2)
        cable.cut = True
        await asyncio.sleep(2.0)  # the outage
        written = len(cable.writes)
        cable.cut = False
        events = await follow(runs, run_id)
        assert events[-1].data == {"state": "lost"}
        later = [one for one in cable.writes[written:] if isinstance(one, list)]
        assert not later, f"it wrote {later} after it was cut off for a lease"


async def test_a_watcher_that_was_away_invents_no_death(url: str) -> None:
    """What it did not see may have been there."""
    cable = Cable()
    go = asyncio.Event()

    async def answer(run: Run) -> None:
        await go.wait()

    async with open_log(url) as log, Runs(log, lease=2.0) as runs:
        async with open_log(url) as far, Runs(cable.through(far), lease=2.0) as watcher:
            await watcher.start()
            run_id = (await runs.create("/a", "ann", handler=answer)).state.id
            cable.cut = True
            await asyncio.sleep(2.5)  # the outage
            cable.cut = False
            time.sleep(2.5)  # noqa: ASYNC251 - both are held up
            await asyncio.sleep(0.3)  # in which it would be called lost
            assert (await runs.state(run_id)).state == "running"
            go.set()
            assert (await follow(watcher, run_id))[-1].data == {"state": "done"}


@pytest.mark.long
async def test_a_process_that_writes_is_not_dead(url: str) -> None:
    """Its thread for signs of life may hardly run: a busy handler, on a busy machine."""
    lease = 3.0
    held = Cable()

    async def answer(run: Run) -> None:
        began = time.monotonic()
        while time.monotonic() < began + 2 * lease:
            await run.delta("x")
            await asyncio.sleep(0.02)  # the pace of a model

    async with open_log(url) as log, Runs(log, lease=lease) as watcher:
        async with open_log(url) as far, Runs(far, lease=lease) as runs:
            await watcher.start()
            another = far.another
            far.another = lambda: held.through(another())  # type: ignore[method-assign]
            held.cut = True
            run_id = (await runs.create("/a", "ann", handler=answer)).state.id
            assert (await follow(watcher, run_id))[-1].data == {"state": "done"}


class AwayLog(MemoryLog):
    """May be away, and counts how often it is read then."""

    away = False
    reads = 0

    async def read(self, *args: Any, **options: Any) -> Batch:
        if self.away:
            self.reads += 1
            raise SourceUnavailableError("log", "away")
        return await super().read(*args, **options)


async def test_a_log_that_is_away_is_not_asked_all_the_time() -> None:
    """A run is about to count as lost, and all processes that watch it want to know."""
    log = AwayLog()
    async with Runs(log, lease=0.5) as runs:
        await runs.start()
        await log.append("run:runs:news", {"t": "new", "id": "x", "w": "dead"})
        log.away = True
        await asyncio.sleep(1.2)  # the outage
        log.away = False
    assert 1 <= log.reads <= 28, "once in a tenth of the lease"


async def test_a_process_that_ends_says_so_at_once(log: EventLog) -> None:
    """A restart of the server is no mystery, and takes no lease."""

    async def answer(run: Run) -> None:
        await run.delta("x")
        await asyncio.Event().wait()

    async with Runs(log, lease=60.0) as watcher:
        async with Runs(log, lease=60.0, grace=0.3) as runs:
            run_id = (await runs.create("/a", "ann", handler=answer)).state.id
            following = asyncio.create_task(follow(watcher, run_id))
            await until(lambda: _has_output(log, watcher, run_id))
            await runs.stop()
            with pytest.raises(SourceUnavailableError, match="stopped"):
                await runs.create("/a", "ann", handler=answer)
        events = await following
        assert events[-1].data == {"state": "lost"}
        assert "stopped" in ((await watcher.state(run_id)).error or "")


async def test_a_run_that_nobody_takes_is_lost(log: EventLog) -> None:
    """A queue that lost the job must not block a conversation for ever."""
    async with Runs(log, lease=6.0, start_within=timedelta(milliseconds=200)) as runs:
        run_id = (await runs.create("/a", "ann")).state.id
        assert (await follow(runs, run_id))[-1].data == {"state": "lost"}
        assert "no worker" in ((await runs.state(run_id)).error or "")


async def test_a_run_that_ended_before_its_queue_was_heard_of_is_over(log: EventLog) -> None:
    """A quick worker ends it before others hear that the queue has it: nobody waits for that."""

    async def ends(run_id: str) -> int:
        news = (await log.latest("run:runs:news", 100)).records
        return sum(one.data["t"] == "end" and one.data["id"] == run_id for one in news)

    async with Runs(log, lease=30.0, start_within=timedelta(seconds=0.3)) as runs:
        quick = (await runs.create("/a", "ann", handler=_quick)).state.id
        await until(lambda: ends(quick), 30)
        await log.append("run:runs:news", {"t": "handed", "id": quick, "by": "other"})
        slow = (await runs.create("/a", "ann")).state.id
        await until(lambda: ends(slow), 30)
        assert await ends(quick) == 1


async def test_silence_is_a_death_where_it_is_asked_for(log: EventLog) -> None:
    """A handler that hangs in a library without a time-out."""
    async with Runs(log, lease=30.0, silence=1.0) as runs:

        async def hangs(run: Run) -> None:
            await run.delta("x")
            await asyncio.Event().wait()

        async def talks(run: Run) -> None:
            for n in range(8):
                await run.delta(str(n))
                await asyncio.sleep(0.2)  # slower than the tick, faster than the limit

        silent = (await runs.create("/a", "ann", handler=hangs)).state.id
        other = (await runs.create("/a", "ann", handler=talks)).state.id
        assert (await follow(runs, silent))[-1].data == {"state": "lost"}
        assert "nothing for 1 s" in ((await runs.state(silent)).error or "")
        assert (await follow(runs, other))[-1].data == {"state": "done"}


async def test_a_process_that_dies_after_a_creation_longer_than_a_lease_is_noticed(
    url: str,
) -> None:
    """It was stopped for a while, and its run appeared when others had ceased to look for it."""
    cable, no_beats = Cable(), Cable()
    no_beats.cut = True
    async with open_log(url) as log, Runs(log, lease=0.5) as watcher:
        await watcher.start()
        async with open_log(url) as far, Runs(cable.through(far), lease=0.5) as runs:
            append, another = far.append, far.another
            far.another = lambda: no_beats.through(another())  # type: ignore[method-assign]

            async def late(topic: str, data: Any, **options: Any) -> Any:
                if ":r:" not in topic:
                    return await append(topic, data, **options)
                await asyncio.sleep(1.5)  # three leases
                found = await append(topic, data, **options)
                cable.cut = True
                ids.append(topic.rpartition(":")[2])
                return found

            ids: list[str] = []
            far.append = late  # type: ignore[method-assign]
            created = asyncio.create_task(runs.create("/a", "ann", handler=_quick))
            await until(lambda: ids)
            async with asyncio.timeout(20):
                assert (await follow(watcher, ids[0]))[-1].data == {"state": "lost"}
            created.cancel()
            await asyncio.wait([created])


async def test_a_start_whose_answer_was_lost_does_not_run_for_ever(url: str) -> None:
    """The log stored it and said that it was not: nobody produces that run."""
    cable = Cable()
    async with open_log(url) as log, Runs(log, lease=0.5) as runs:
        append = log.append

        async def breaks(topic: str, data: Any, **options: Any) -> Any:
            found = await append(topic, data, **options)
            if ":r:" in topic and cable.cut and first.state.id not in topic:
                cable.cut = False
                raise SourceUnavailableError("log", "whether it was done is not known")
            return found

        async def waits(run: Run) -> None:
            await asyncio.Event().wait()

        # The process has signs of life to give. On a busy machine this run may be lost meanwhile.
        first = await runs.create("/a", "ann", handler=waits)
        log.append = breaks  # type: ignore[method-assign]
        cable.cut = True
        with pytest.raises(SourceUnavailableError):
            await runs.create("/a", "ann", key="k", handler=_quick)
        created = await runs.create("/a", "ann", key="k", handler=_quick)
        assert not created.is_new
        assert (await follow(runs, created.state.id))[-1].data == {"state": "lost"}


async def test_of_a_contested_run_the_winner_is_watched(url: str) -> None:
    """Another worker wanted it too, and lives on; the one that got it dies."""
    async with open_log(url) as log, Runs(log, lease=1.0) as runs:
        async with producing(url, 1.0, 1) as producer:
            (run_id,) = producer.ids
            await runs.state(run_id)
            # As a worker does that comes second.
            await log.append("run:runs:news", {"t": "claim", "id": run_id, "w": "other"})
            beating = asyncio.create_task(_beat(log))
            producer.signal(signal.SIGKILL)
            try:
                assert (await follow(runs, run_id))[-1].data == {"state": "lost"}
            finally:
                beating.cancel()


async def test_a_worker_in_the_process_that_filled_the_queue_is_watched(url: str) -> None:
    """It claimed the run before the others heard that the queue has it."""
    async with open_log(url) as log, Runs(log, lease=1.0) as runs:
        async with producing(url, 1.0, 1) as producer:
            (run_id,) = producer.ids
            await runs.state(run_id)
            (news,) = (await log.latest("run:runs:news", 1)).records
            worker = news.data["w"]
            await log.append("run:runs:news", {"t": "claim", "id": run_id, "w": worker})
            await log.append("run:runs:news", {"t": "handed", "id": run_id, "by": worker})
            producer.signal(signal.SIGKILL)
            async with asyncio.timeout(10):
                assert (await follow(runs, run_id))[-1].data == {"state": "lost"}


async def _beat(log: EventLog) -> None:
    while True:
        await log.append("run:runs:beats", {"w": "other"})
        await asyncio.sleep(0.2)  # well within the lease
