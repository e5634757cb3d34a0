"""The engine on Valkey: the contract, and what only this server can do to a log."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog import EventLog, Offset, Record, open_log
from headwater.eventlog.redis._pushes import from_id, until_id
from headwater.testing import EventLogContract
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers, read_all
from support.log_rounds import rounds
from support.until import outside
from support.valkey import Valkey

# Of one moment: key by key, a copy beside busy writers would be of none, and take for ever.
COPY = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
    found[#found + 1], found[#found + 2] = key, redis.call('DUMP', key)
end
return found
"""


class TestContract(EventLogContract):
    @pytest.fixture(autouse=True)
    def server(self, valkey: Valkey) -> None:
        self.valkey = valkey

    async def open(self) -> EventLog:
        async with self.valkey.client() as client:
            await client.flushall()
        return await self.reopen(None)

    async def reopen(self, log: EventLog | None) -> EventLog:
        opened = open_log(self.valkey.url)
        await opened.start()
        return opened

    async def wipe(self, log: EventLog) -> None:
        async with self.valkey.client() as client:
            await client.flushall()

    async def keep_copy(self, log: EventLog) -> dict[bytes, bytes]:
        async with Redis(port=self.valkey.port) as client:
            found = await client.eval(COPY, 0)
            return dict(zip(found[::2], found[1::2], strict=True))

    async def go_back(self, log: EventLog, copy: dict[bytes, bytes]) -> None:
        async with Redis(port=self.valkey.port) as client, client.pipeline() as all_at_once:
            all_at_once.flushall()
            for key, dumped in copy.items():
                all_at_once.restore(key, 0, dumped)
            await all_at_once.execute()

    @asynccontextmanager
    async def refuse(self, log: EventLog) -> AsyncIterator[None]:
        async with self.valkey.client() as client:
            await client.config_set("maxmemory", "1")
            yield
            await client.config_set("maxmemory", "0")

    @asynccontextmanager
    async def stall(self, log: EventLog) -> AsyncIterator[None]:
        await self.valkey.pause()
        try:
            yield
        finally:
            self.valkey.resume()

    @pytest.mark.soak
    @pytest.mark.parametrize("writers", [1, 20])
    @pytest.mark.parametrize("streams", [True, False], ids=["streams", "away"])
    async def test_rounds_with_followers_in_two_processes(
        self, writers: int, streams: bool
    ) -> None:
        """And with clients that are away. It prints its figures."""
        print(await rounds(self, self.valkey.url, writers, streams=streams))

    async def purge(self, log: EventLog, topic: str, last: Offset) -> None:
        async with self.valkey.client() as client:
            await client.xtrim(f"headwater:t:{topic}", minid=str(last.next()), approximate=False)

    async def remove(self, log: EventLog, record: Record) -> bool:
        async with self.valkey.client() as client:
            return bool(await client.xdel(f"headwater:t:{record.topic}", str(record.offset)))

    async def lose_topic(self, log: EventLog, topic: str) -> None:
        async with self.valkey.client() as client:
            await client.delete(f"headwater:t:{topic}")
            await client.hdel("headwater:topics", topic)

    async def intrude(self, log: EventLog, topic: str) -> None:
        async with self.valkey.client() as client:
            await client.xadd(f"headwater:t:{topic}", {"temperature": "21"})


@pytest.fixture
async def log(valkey: Valkey) -> AsyncIterator[EventLog]:
    async with valkey.client() as client:
        await client.flushall()
    async with open_log(valkey.url) as opened:
        yield opened


async def seen(log: EventLog, topic: str = "t") -> list[object]:
    return numbers(await read_all(log, topic))


async def test_a_count_that_another_program_overwrote_is_one_sentence(
    valkey: Valkey, log: EventLog
) -> None:
    """For whoever opens a stream too; and it goes on once that is undone."""
    await log.append("t", {"n": 0})
    async with valkey.client() as client:
        appends = await client.hget("headwater:log", "appends")
        await client.hset("headwater:log", "appends", "many")
        for call in (log.append("t", {"n": 1}), log.bounds("t"), log.follow("t", Recorder())):
            with pytest.raises(SourceUnavailableError, match=r"headwater:log|integer"):
                await call
        await client.hset("headwater:log", "appends", appends)
    await log.append("t", {"n": 2})
    assert await seen(log) == [0, 2]


async def test_full_memory_is_an_error_and_a_retry_doubles_nothing(tmp_path: Path) -> None:
    """With ``noeviction`` nothing is dropped to make room: the caller gets an error."""
    server = Valkey(tmp_path, "--maxmemory", "8mb", "--maxmemory-policy", "noeviction")
    await server.start()
    try:
        async with open_log(server.url) as log:
            follower = Recorder()
            await log.follow("t", follower)
            taken = 0
            with pytest.raises(SourceUnavailableError, match="memory is full"):
                while taken < 1000:
                    await log.append("t", {"n": taken, "fill": "x" * 50_000}, key=f"k{taken}")
                    taken += 1
            assert await seen(log) == list(range(taken)), "a refused append left something"
            await follower.count(taken)
            # What clients' buffers give back makes room for some more.
            refused = 0
            while refused < 3:
                batch = [{"n": n, "fill": "x" * 50_000} for n in range(taken, taken + 3)]
                try:
                    await log.append("t", batch, key=f"batch{taken}")
                    taken += 3
                except SourceUnavailableError:
                    refused += 1
                assert await seen(log) == list(range(taken)), "a part of a batch was kept"
            await log.trim("t", max_count=taken // 2)
            for _ in range(2):
                await log.append("t", {"n": taken}, key=f"k{taken}")
            await follower.count(taken + 1)
            assert numbers(follower.records) == list(range(taken + 1))
            assert not follower.resets
    finally:
        server.kill()


async def test_killed_clients_come_back(log: EventLog, valkey: Valkey) -> None:
    """An operator's CLIENT KILL, in the middle of everything, loses and repeats nothing."""
    follower = Recorder()
    await log.follow("t", follower)
    async with open_log(valkey.url) as other, valkey.client() as client:
        for n in range(60):
            await other.append("t", {"n": n}, key=f"k{n}")
            if n % 12 == 7:
                await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            if n % 12 == 11:
                await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await follower.count(60)
    assert numbers(follower.records) == list(range(60))
    assert not follower.resets


async def test_a_reader_that_is_too_slow_is_cut_off_and_reads_what_it_missed(
    log: EventLog, valkey: Valkey
) -> None:
    """The server drops a subscriber whose buffer is full; what was in it is still in the log."""
    async with valkey.client() as client:
        await client.config_set("client-output-buffer-limit", "pubsub 200000 200000 1")
        try:
            follower = Recorder()
            await log.follow("t", follower)
            plain = [{"n": n, "fill": "x" * 10_000} for n in range(200)]
            async with open_log(valkey.url) as other, asyncio.TaskGroup() as group:
                for event in plain:
                    group.create_task(other.append("t", event))
            await follower.count(200)
            assert follower.records == await read_all(log, "t")
        finally:
            await client.config_set("client-output-buffer-limit", "pubsub 32mb 8mb 60")


async def test_a_large_append_is_read_rather_than_pushed(log: EventLog) -> None:
    """The server does not keep a copy of a megabyte for each process that follows."""
    follower = Recorder()
    await log.follow("t", follower)
    appended = await log.append("t", [{"n": n, "fill": "x" * 5_000} for n in range(300)])
    appended += await log.append("t", {"n": "small"})
    await follower.count(301)
    assert follower.records == appended


async def test_a_server_that_forgot_its_scripts_learns_them(log: EventLog, valkey: Valkey) -> None:
    await log.append("t", {"n": 1})
    async with valkey.client() as client:
        await client.script_flush()
    await asyncio.gather(*(log.append("t", {"n": n}, key=f"k{n}") for n in (2, 3)))
    assert sorted(await seen(log), key=str) == [1, 2, 3]


async def test_a_topic_that_was_deleted_by_hand_is_another_life(
    log: EventLog, valkey: Valkey
) -> None:
    """Or evicted, under a policy that does that: positions in it can no longer be checked."""
    before = (await log.append("t", [{"n": 1}, {"n": 2}]))[-1].offset
    follower = Recorder()
    old = await log.follow("t", follower)
    async with valkey.client() as client:
        await client.delete("headwater:t:t")
    assert (await log.bounds("t")).epoch != old.epoch
    await follower.until(lambda one: bool(one.resets), "a reset")
    (record,) = await log.append("t", {"n": 3})
    assert record.offset > before
    await follower.count(1)
    assert follower.resets[0][0] == "unknown"


async def test_what_was_trimmed_by_hand_is_expired(log: EventLog, valkey: Valkey) -> None:
    """XTRIM in a console is no lie to clients: what may be missing is not resumed at."""
    records = await log.append("t", [{"n": n} for n in range(6)])
    await log.trim("t", max_count=5)
    async with valkey.client() as client:
        await client.xtrim("headwater:t:t", maxlen=3, approximate=False)
    bounds = await log.bounds("t")
    assert records[2].offset <= bounds.earliest < records[3].offset
    async with valkey.client() as client:
        await client.xtrim("headwater:t:t", maxlen=0, approximate=False)
    bounds = await log.bounds("t")
    assert bounds.earliest == bounds.latest == records[-1].offset


async def test_a_key_is_forgotten_after_its_time(valkey: Valkey) -> None:
    """Memory for keys is bounded by time: within it a retry is safe, whatever was trimmed."""
    async with open_log(f"{valkey.url}?keys_kept=1") as log, valkey.client() as client:
        await client.flushall()
        await log.append("t", {"n": 1}, key="k")
        await log.trim("t", max_count=0)
        assert await log.append("t", {"n": 1}, key="k") == [], "its records are gone, the key not"

        async def forgotten() -> bool:
            return not await client.exists("headwater:k:t k")

        await outside(forgotten)
        assert numbers(await log.append("t", {"n": 2}, key="k")) == [2]


async def test_logs_with_different_prefixes_are_apart(log: EventLog, valkey: Valkey) -> None:
    """A shared server, and whatever else is in it."""
    async with open_log(f"{valkey.url}?prefix=other") as other:
        await log.append("t", {"n": 1}, key="k")
        await other.append("t", {"n": 2}, key="k")
        assert (await seen(log), await seen(other)) == ([1], [2])
        assert (await log.bounds("t")).epoch != (await other.bounds("t")).epoch
        assert await other.trim(max_count=0) == 1
        assert await seen(log) == [1]


async def test_callers_that_leave_in_the_middle_disturb_nobody(log: EventLog) -> None:
    """Answers stay with their questions, also when the caller of one has left."""
    for delay in range(20):
        gone = asyncio.create_task(log.append("t", [{"n": delay}] * 3))
        others = [asyncio.create_task(log.append(f"u{n}", {"n": n})) for n in range(3)]
        for _ in range(delay):
            await asyncio.sleep(0)
        gone.cancel()
        for n, other in enumerate(others):
            assert numbers(await other) == [n]
        await asyncio.wait([gone])
    kept = await seen(log)
    assert all(kept.count(number) in (0, 3) for number in range(20))


async def test_one_connection_for_all_that_is_asked(log: EventLog, valkey: Valkey) -> None:
    """A crowd of callers shares it, and leaves together in few writes."""
    async with valkey.client() as client:
        before = int((await client.info("clients"))["connected_clients"])
        await asyncio.gather(*(log.append(f"t{n % 7}", {"n": n}) for n in range(500)))
        await log.follow("t", Recorder())
        assert int((await client.info("clients"))["connected_clients"]) <= before + 1


@pytest.mark.parametrize(
    "options", ["prefix=a b", "prefix=", "keys_kept=soon", "keys_kept=0", "nonsense=1"]
)
async def test_options_that_cannot_work(options: str) -> None:
    with pytest.raises(UsageError):
        async with open_log(f"redis://127.0.0.1:1/0?{options}"):
            pass


async def test_a_log_is_found_at_other_names_for_the_same(valkey: Valkey) -> None:
    async with open_log(valkey.url.replace("redis", "valkey")) as log:
        await log.append("other-name", {"n": 1})
        assert await seen(log, "other-name") == [1]


@pytest.mark.parametrize("offset", ["0", "0-0", "7", "1718000000000-5", "9" * 20, "9" * 20 + "-1"])
def test_any_offset_is_a_range(offset: str) -> None:
    """Ids end at 64 bits; invented offsets do not."""
    assert len(from_id(Offset.parse(offset))) < 50
    assert len(until_id(Offset.parse(offset))) < 50


async def test_an_epoch_can_be_begun_by_hand(log: EventLog, valkey: Valkey) -> None:
    """As the page on engines says for a restored backup: what is kept stays."""
    await log.append("t", {"n": 1})
    before = await log.bounds("t")
    async with valkey.client() as client:
        await client.hdel("headwater:log", "epoch")
    assert (await log.bounds("t")).epoch != before.epoch
    assert await seen(log) == [1]
