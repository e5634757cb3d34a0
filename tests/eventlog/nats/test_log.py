"""The engine on NATS: the contract, and what only this server can do to a log."""

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.js.errors import APIError

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog import START, EventLog, Offset, Record, open_log
from headwater.eventlog.nats import NatsLog
from headwater.testing import EventLogContract
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.log_rounds import rounds
from support.nats import Nats
from support.until import outside, succeeds

pytestmark = pytest.mark.long


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

    async def keep_copy(self, log: EventLog) -> Path:
        self.nats.stop()
        copy = self.nats.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.nats.folder / "streams", copy)
        await self.nats.start()
        await succeeds(partial(log.bounds, "t"), SourceUnavailableError)
        return copy

    async def go_back(self, log: EventLog, copy: Path) -> None:
        self.nats.stop()
        shutil.rmtree(self.nats.folder / "streams")
        shutil.copytree(copy, self.nats.folder / "streams")
        await self.nats.start()

    @asynccontextmanager
    async def refuse(self, log: EventLog) -> AsyncIterator[None]:
        async with self.nats.streams() as streams:
            config = (await streams.stream_info("headwater")).config
            config.max_bytes = 1
            await streams.update_stream(config)
            yield
            config.max_bytes = -1
            await streams.update_stream(config)

    @asynccontextmanager
    async def stall(self, log: EventLog) -> AsyncIterator[None]:
        await self.nats.pause()
        try:
            yield
        finally:
            self.nats.resume()

    @pytest.mark.soak
    @pytest.mark.parametrize("writers", [1, 20])
    @pytest.mark.parametrize("streams", [True, False], ids=["streams", "away"])
    async def test_rounds_with_followers_in_two_processes(
        self, writers: int, streams: bool
    ) -> None:
        """And with clients that are away. It prints its figures."""
        print(await rounds(self, self.nats.url, writers, streams=streams))

    async def purge(self, log: EventLog, topic: str, last: Offset) -> None:
        async with self.nats.streams() as streams:
            await streams.purge_stream("headwater", seq=last[0] + 1, subject=f"headwater.t.{topic}")

    async def remove(self, log: EventLog, record: Record) -> bool:
        async with self.nats.streams() as streams:
            try:
                return await streams.delete_msg("headwater", record.offset[0])
            except APIError:
                return False

    async def lose_topic(self, log: EventLog, topic: str) -> None:
        async with self.nats.streams() as streams:
            for kind in "ts":
                await streams.purge_stream("headwater", subject=f"headwater.{kind}.{topic}")

    async def intrude(self, log: EventLog, topic: str) -> None:
        async with self.nats.client() as client:
            await client.publish(f"headwater.t.{topic}", b"21 degrees")
            await client.flush()


@pytest.fixture
async def log(nats: Nats) -> AsyncIterator[NatsLog]:
    await nats.wipe()
    async with open_log(nats.url) as opened:
        assert isinstance(opened, NatsLog)
        yield opened


async def seen(log: EventLog, topic: str = "t") -> list[object]:
    return numbers(await read_all(log, topic))


@pytest.mark.parametrize("seed", range(2))
async def test_paging_back_meets_everything_once_however_topics_are_mixed(
    log: NatsLog, seed: int
) -> None:
    """JetStream reads forwards only; a topic's newest are found among those of all others."""
    chance = random.Random(seed)
    count = 0
    for _ in range(12):
        # Long runs of one topic, then long ones of the other: no even spread to rely on.
        topic = chance.choice(["t", "t", "busy"])
        run = chance.choice([1, 3, 60, 250])
        await log.append(topic, [{"n": count + n if topic == "t" else -1} for n in range(run)])
        count += run if topic == "t" else 0
    if chance.random() < 0.5:
        await log.trim("busy", max_count=7)
    for limit in (1, 7, 100):
        pages: list[list[object]] = []
        before = None
        while records := (await log.latest("t", limit, before)).records:
            pages.insert(0, numbers(records))
            before = records[0].offset
        assert [n for page in pages for n in page] == list(range(count))
        assert all(len(page) == limit for page in pages[1:])
    keep = chance.randrange(count + 1)
    assert await log.trim("t", max_count=keep) == count - keep
    assert await seen(log) == list(range(count - keep, count))


async def test_the_latest_are_the_latest_while_others_append(log: NatsLog) -> None:
    """A snapshot misses nothing up to the end that it claims."""
    done = asyncio.Event()

    async def write(topic: str) -> None:
        n = 0
        while not done.is_set():
            await log.append(topic, {"n": n})
            n += 1

    async with asyncio.TaskGroup() as group:
        for topic in ("t", "t2"):
            group.create_task(write(topic))
        for _ in range(60):
            run = await log.latest("t", 5)
            if run.records:
                assert run.records[-1].offset == run.bounds.latest
                first = run.records[0].data["n"]
                assert numbers(run.records) == list(range(first, first + len(run.records)))
            page = await log.read("t", START, 20)
            assert numbers(page.records) == list(range(len(page.records)))
            if len(page.records) < 20:
                assert page.bounds.latest == (page.records[-1].offset if page.records else START)
        done.set()


async def test_a_batch_is_followed_whole_and_kept_whole(log: NatsLog) -> None:
    """As many as the server takes at once; with a key one of them is the key's own."""
    follower = Recorder()
    await log.follow("t", follower)
    most = log.capabilities.max_batch
    appended = await log.append("t", [{"n": n} for n in range(most)])
    appended += await log.append("t", [{"n": n} for n in range(most - 1)], key="k")
    assert await log.append("t", [{"n": n} for n in range(most - 1)], key="k") == appended[most:]
    await follower.count(2 * most - 1)
    assert follower.records == appended
    with pytest.raises(UsageError, match=str(most - 1)):
        await log.append("t", [{"n": n} for n in range(most)], key="l")
    assert await read_all(log, "t") == appended


async def test_a_crowd_of_batches(log: NatsLog, nats: Nats) -> None:
    """More at once than the server has on its way: they wait for each other, and none fails."""
    async with AsyncExitStack() as stack:
        logs = [await stack.enter_async_context(open_log(nats.url)) for _ in range(8)]
        batches = [
            (one, [{"n": [place, n]}] * 40) for place, one in enumerate(logs) for n in range(10)
        ]
        await asyncio.gather(*(one.append("t", batch) for one, batch in batches))
    kept = await seen(log)
    assert len(kept) == 80 * 40
    assert all(kept[start : start + 40] == [kept[start]] * 40 for start in range(0, 3200, 40))


async def test_small_batches_that_come_at_once_are_one_for_the_server(
    log: NatsLog, nats: Nats
) -> None:
    """Each waits for the disk: a hundred reports that come together must not take turns there."""
    commits = 0

    async def count(message: Msg) -> None:
        nonlocal commits
        commits += "Nats-Batch-Commit" in (message.headers or {})

    follower = Recorder()
    await log.follow("t0", follower)
    async with nats.client() as client:
        await client.subscribe("headwater.t.*", cb=count)
        await client.flush()
        appended = await asyncio.gather(
            *(log.append(f"t{n % 3}", [{"n": [n, part]} for part in range(5)]) for n in range(100))
        )
        await client.flush()
        assert 1 <= commits < 20
    for place, topic in enumerate(("t0", "t1", "t2")):
        kept = await read_all(log, topic)
        assert kept == [record for records in appended[place::3] for record in records]
        assert numbers(kept) == [[n, part] for n in range(place, 100, 3) for part in range(5)]
    await follower.count(34 * 5)
    assert follower.records == await read_all(log, "t0")


async def test_a_batch_that_is_refused_takes_no_other_with_it(log: NatsLog, nats: Nats) -> None:
    """Those that went to the server together with it are stored all the same."""
    await log.append("t", {"n": 0})
    await set_up(nats, max_bytes=100_000)
    batches: list[list[object]] = [[{"n": n}] * 2 for n in range(6)]
    batches[4] = [{"n": 4, "fill": "x" * 60_000}] * 2
    appended = await asyncio.gather(
        *(log.append("t", batch) for batch in batches), return_exceptions=True
    )
    assert isinstance(appended[4], SourceUnavailableError)
    assert sorted(await seen(log)) == [0, 0, 0, 1, 1, 2, 2, 3, 3, 5, 5]


async def test_a_key_is_forgotten_after_its_time(nats: Nats) -> None:
    """Memory for keys is bounded by time: within it a retry is safe, whatever was trimmed."""
    async with open_log(f"{nats.url}?stream=brief&keys_kept=1") as log:
        first = await log.append("t", {"n": 1}, key="k")
        batch = await log.append("t", [{"n": 2}, {"n": 3}], key="l")
        assert await log.append("t", {"n": 1}, key="k") == first
        assert await log.append("t", [{"n": 2}, {"n": 3}], key="l") == batch
        await log.trim("t", max_count=0)
        assert await log.append("t", {"n": 1}, key="k") == []
        await outside(lambda: log.append("t", {"n": 4}, key="k"))
        await outside(lambda: log.append("t", [{"n": 5}, {"n": 6}], key="l"))
        assert await seen(log) == [4, 5, 6]


async def test_a_key_counts_for_one_event_and_for_a_batch(log: NatsLog) -> None:
    """A caller that puts its events together in another way the second time doubles nothing."""
    single = await log.append("t", {"n": 1}, key="one-first")
    assert await log.append("t", [{"n": 1}, {"n": 2}], key="one-first") == single
    batch = await log.append("t", [{"n": 3}, {"n": 4}], key="batch-first")
    assert await log.append("t", {"n": 3}, key="batch-first") == batch
    assert await log.append("t", [{"n": 3}] * 3, key="batch-first") == batch
    assert await seen(log) == [1, 3, 4]


async def test_the_longest_memory_for_keys_counts(log: NatsLog, nats: Nats) -> None:
    """It is the stream's: all processes have the same, and none shortens another's."""
    for asked, has in ((7200, 7200), (60, 7200)):
        async with open_log(f"{nats.url}?keys_kept={asked}") as other:
            assert other.capabilities.keys_kept == timedelta(seconds=has)


async def test_a_purged_stream_is_another_life(log: NatsLog, nats: Nats) -> None:
    """``nats stream purge`` takes the epoch along."""
    follower = Recorder()
    await log.append("t", {"n": 1})
    before = await log.follow("t", follower)
    async with nats.streams() as streams:
        await streams.purge_stream("headwater")
    await follower.until(lambda one: bool(one.resets), "a reset")
    assert follower.resets[0][1].epoch != before.epoch
    await log.append("t", {"n": 2})
    await follower.count(1)
    assert numbers(follower.records) == [2]


async def test_a_full_stream_is_an_error_and_a_retry_doubles_nothing(
    log: NatsLog, nats: Nats
) -> None:
    """A stream with a bound refuses what does not fit; nothing old is dropped for it."""
    await log.append("t", {"n": 0})
    await set_up(nats, max_bytes=40_000)
    taken = 1
    with pytest.raises(SourceUnavailableError, match="maximum bytes"):
        while taken < 1000:
            await log.append("t", {"n": taken, "fill": "x" * 1000}, key=f"k{taken}")
            taken += 1
    with pytest.raises(SourceUnavailableError, match="maximum bytes"):
        await log.append("t", [{"n": taken, "fill": "x" * 1000}] * 3)
    assert await seen(log) == list(range(taken))
    await log.trim("t", max_count=5)
    for _ in range(2):
        await log.append("t", {"n": taken}, key=f"k{taken}")
    assert await seen(log) == list(range(taken - 5, taken + 1))


async def set_up(nats: Nats, **settings: object) -> None:
    """Change the stream's settings by hand, keeping those that the driver does not know."""
    async with nats.client() as client:
        info = json.loads((await client.request("$JS.API.STREAM.INFO.headwater", b"")).data)
        config = info["config"] | settings
        answer = await client.request(
            "$JS.API.STREAM.UPDATE.headwater", json.dumps(config).encode(), timeout=5
        )
        assert "error" not in json.loads(answer.data), answer.data


@pytest.mark.parametrize(
    "settings",
    [
        {"max_age": 3_600_000_000_000},
        {"max_msgs_per_subject": 10},
        {"max_msgs": 1000, "discard": "old"},
        {"allow_direct": False},
    ],
    ids=str,
)
async def test_a_stream_that_would_lose_events_is_refused(
    log: NatsLog, nats: Nats, settings: dict[str, object]
) -> None:
    """Nothing is dropped silently: a stream whose own limits do that is no log."""
    await set_up(nats, **settings)
    with pytest.raises(UsageError, match="stream headwater"):
        async with open_log(nats.url):
            pass


async def test_a_server_without_jetstream_is_an_error(tmp_path: Path) -> None:
    class Plain(Nats):
        def command(self) -> Sequence[str]:
            return [part for part in super().command() if part != "--jetstream"]

    server = Plain(tmp_path)
    await server.start()
    try:
        log = open_log(server.url)
        with pytest.raises(SourceUnavailableError, match="JetStream"):
            await log.start()
        await log.close()
    finally:
        server.kill()


async def test_a_smaller_server_takes_smaller_events(tmp_path: Path) -> None:
    """The bound is the server's, known once the log is open, and checked before sending."""
    (tmp_path / "server.conf").write_text("max_payload: 65536\n")
    server = Nats(tmp_path, "--config", str(tmp_path / "server.conf"))
    await server.start()
    try:
        async with open_log(server.url) as log:
            room = log.max_event_bytes - len('{"n":""}')
            assert room < 65536
            await log.append("t" * 200, {"n": "x" * room}, key="k" * 200)
            with pytest.raises(UsageError, match=str(log.max_event_bytes)):
                await log.append("t", {"n": "x" * (room + 1)})
        fresh = open_log(server.url)
        with pytest.raises(UsageError, match=f"event 1: .* at most {room + 8} are allowed"):
            await fresh.append("t", [{"n": 1}, {"n": "x" * (room + 1)}])
        await fresh.close()
    finally:
        server.kill()


async def test_closing_while_a_follower_joins_costs_no_append(log: NatsLog) -> None:
    """The driver stops reading at the answer to a flush that was cancelled."""
    for turns in range(24):
        other = log.another()
        await other.append("t", {"n": 0})
        joining = asyncio.create_task(other.follow("t", Recorder()))
        for _ in range(turns):
            await asyncio.sleep(0)
        appends = [asyncio.create_task(other.append("t", {"n": n})) for n in range(3)]
        await asyncio.sleep(0)
        await other.close()
        for done in await asyncio.gather(joining, *appends, return_exceptions=True):
            assert not isinstance(done, BaseException) or isinstance(done, UsageError), turns


async def test_offsets_of_a_later_life_are_above_those_of_an_earlier_one(
    log: NatsLog, nats: Nats
) -> None:
    """An old position that is taken for a new one by mistake points at nothing."""
    (before,) = await log.append("t", {"n": 1})
    await asyncio.sleep(1)  # the clock itself is what is waited for
    await nats.wipe()
    (after,) = await log.append("t", {"n": 2})
    assert after.offset > before.offset


async def test_dots_are_apart_from_everything(log: NatsLog) -> None:
    """In NATS a dot parts tokens; in a topic's name it is a character."""
    topics = ["a.b", "a..b", ".a", "a.", "...", "a:b/c@d-e_f", "a-b"]
    followers = {topic: Recorder() for topic in topics}
    for topic, follower in followers.items():
        await log.follow(topic, follower)
    for topic in topics:
        await log.append(topic, {"n": topic})
    for topic, follower in followers.items():
        await follower.count(1)
        assert numbers(follower.records) == [topic]
        assert follower.records[0].topic == topic
        assert await seen(log, topic) == [topic]
    assert await log.trim(max_count=0) == len(topics)


@pytest.mark.parametrize(
    "address",
    ["", "host/path", "host?stream=a.b", "host?replicas=many", "host?keys_kept=0", "host?what=1"],
)
async def test_addresses_that_cannot_work(address: str) -> None:
    with pytest.raises(UsageError):
        open_log(f"nats://{address}")


async def test_any_server_of_several_is_taken(log: NatsLog, nats: Nats) -> None:
    async with open_log(f"nats://127.0.0.1:1,127.0.0.1:{nats.port}") as other:
        await other.append("t", {"n": 1})
        assert await seen(log) == [1]


async def test_an_epoch_can_be_begun_by_hand(log: NatsLog, nats: Nats) -> None:
    """As the page on engines says for a restored backup: what is kept stays."""
    await log.append("t", {"n": 1})
    before = await log.bounds("t")
    async with nats.streams() as streams:
        await streams.purge_stream("headwater", subject="headwater.epoch")
    assert (await log.bounds("t")).epoch != before.epoch
    assert await seen(log) == [1]
