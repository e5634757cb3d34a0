"""Where history, the ring and live items join: nothing is lost, repeated or told in vain."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.eventlog import MemoryLog
from headwater.feeds import Poll
from headwater.sql import Table, sqlite_engine, track
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import poll, request
from support.server import serving
from support.tables import pages_read
from support.until import until


def targets(live):
    """The channels of all readers."""
    return [each for reader in live.hub.readers for each in reader.targets.values()]


class Base(DeclarativeBase):
    pass


@track(indexes=[("user",)])
class Log(Base):
    __tablename__ = "logs"
    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[int]


@track(keyed=True)
class Client(Base):
    __tablename__ = "clients"
    name: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime]


class Gated(Source):
    """A source whose pages are held back until the gate opens."""

    def __init__(self, inner: Source, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate
        self.origin = inner.origin

    async def page(self, limit, *, after=None, before=None):
        page = await self._inner.page(limit, after=after, before=before)
        self._gate.read += 1
        await self._gate.open.wait()
        return page

    async def locate(self, epoch, place):
        return await self._inner.locate(epoch, place)


class Gate:
    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.read = 0


class Rig:
    """One application with one feed, ``/f``, of whatever source the test gives."""

    def __init__(self, source, *, keyed=False) -> None:
        self.live = LiveRouter()
        self.app = Application(self.live)

        @self.live.feed("/f", item=dict, keyed=keyed)
        async def f() -> Source:
            return source()

    @property
    def reader(self):
        (reader,) = self.live.hub.readers
        return reader


@asynccontextmanager
async def database(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def insert(engine, model, *rows):
    async with engine.begin() as connection:
        for row in rows:
            await connection.execute(sa.insert(model).values(**row))


async def fetch(port, path):
    async with request(port, path) as answer:
        return answer.status, json.loads(await answer.body())


async def shown(answer, last):
    """The numbers of all items up to ``last``, those of snapshots too."""
    found = []
    while last not in found:
        message = await answer.next()
        data = json.loads(message.data)
        found += [item["n"] for item in data["items"]] if message.event == "snapshot" else []
        found += [data["n"]] if message.event == "item" else []
    return found


async def test_a_stream_that_was_opened_on_a_log_that_is_wiped_misses_nothing_of_the_new_one():
    log, gate = MemoryLog(), Gate()
    rig = Rig(lambda: Gated(log.topic("a"), gate))
    await log.append("a", [{"n": n} for n in range(5)])

    async def follow(port):
        async with request(port, "/f/stream") as answer:
            return await shown(answer, 102)

    async with serving(rig.app) as port:
        stream = asyncio.create_task(follow(port))
        await until(lambda: gate.read == 1)
        epoch = rig.reader.epoch
        await log.clear()
        await until(lambda: rig.reader.epoch != epoch)
        gate.open.set()
        await log.append("a", [{"n": 100}, {"n": 101}])
        await log.append("a", [{"n": 102}])
        assert [n for n in await asyncio.wait_for(stream, 10) if n >= 100] == [100, 101, 102]


async def test_a_log_that_is_wiped_again_while_a_stream_begins_anew():
    log, gate = MemoryLog(), Gate()
    gate.open.set()
    rig = Rig(lambda: Gated(log.topic("a"), gate))
    await log.append("a", [{"n": n} for n in range(5)])
    async with serving(rig.app) as port, request(port, "/f/stream") as answer:
        await answer.next()
        gate.open.clear()
        await log.clear()
        await log.append("a", [{"n": n} for n in range(50, 55)])
        await until(lambda: gate.read == 2)
        epoch = rig.reader.epoch
        await log.clear()
        await until(lambda: rig.reader.epoch != epoch)
        gate.open.set()
        await log.append("a", [{"n": 100}])
        assert (await shown(answer, 100))[-1] == 100


async def test_what_leaves_a_window_is_told_also_after_the_storage_began_anew(tmp_path):
    async with database(tmp_path) as engine:
        table = Table(engine, Client)
        window = timedelta(seconds=2)
        rig = Rig(lambda: table.where().within("seen_at", window), keyed=True)
        async with serving(rig.app) as port, request(port, "/f/stream") as answer:
            await answer.next()
            # The tail was trimmed past: it has missed an item, and says so.
            missed = []
            rig.reader.deliver = lambda changes, head: missed.append(head)
            moment = datetime.now(UTC).replace(tzinfo=None)
            await insert(engine, Client, {"name": "x", "seen_at": moment})
            await until(lambda: missed)
            del rig.reader.deliver
            rig.reader.reset("expired", missed[-1])
            events = [(await answer.next()).event for _ in range(3)]
            assert events == ["reset", "snapshot", "item_removed"]


async def test_ids_do_not_go_back_when_an_item_leaves_in_the_middle_of_a_hand_over(tmp_path):
    async with database(tmp_path) as engine:
        table = Table(engine, Client)
        rig = Rig(lambda: table.where().within("seen_at", timedelta(seconds=5)), keyed=True)
        now = datetime.now(UTC).replace(tzinfo=None)
        later = now + timedelta(hours=1)
        async with serving(rig.app) as port:
            await insert(engine, Client, {"name": "old", "seen_at": now})
            async with request(port, "/f/stream") as answer:
                await answer.next()
                (channel,) = targets(rig.live)
                members, taken = channel._members, []
                clock, update = members._now, members.update

                def noted(key, moment):
                    taken.append(key)
                    return update(key, moment)

                members.update = noted
                members._now = lambda: clock() + timedelta(seconds=10 if taken else 0)
                rows = [{"name": name, "seen_at": later} for name in "pq"]
                await insert(engine, Client, *rows)
                messages = [await answer.next() for _ in range(3)]
                assert [m.event for m in messages] == ["item", "item_removed", "item"]
                last = messages[1].last_event_id
            async with request(port, "/f/stream", headers={"Last-Event-ID": last}) as answer:
                assert '"q"' in (await answer.next()).data


async def test_a_quiet_client_that_resumed_is_moved_on_before_its_position_expires(tmp_path):
    async with database(tmp_path) as engine:
        table = Table(engine, Log)
        rig = Rig(lambda: table.where(user=1))
        async with serving(rig.app) as port:
            await insert(engine, Log, {"user": 1})
            _, page = await fetch(port, "/f")
            last = page["position"]
            await insert(engine, Log, *({"user": 2} for _ in range(20)))

            async def follow(resumed):
                async with request(port, "/f/stream", headers={"Last-Event-ID": last}) as answer:
                    await answer.until(b"retry")
                    resumed.set()
                    raw = await answer.until(b"id: ")
                    raw = await answer.until(b"\n\n") if raw.endswith(b"id: ") else raw
                    return re.findall(rb"id: (.*)\n", raw)[-1].decode()

            # One is there when the trim is announced, the other comes before it is done.
            first, second = asyncio.Event(), asyncio.Event()
            early = asyncio.create_task(follow(first))
            await first.wait()
            trim = asyncio.create_task(table.trim(max_count=3, grace=1.5))
            moved = [await asyncio.wait_for(early, 10)]
            moved.append(await asyncio.wait_for(follow(second), 10))
            assert await trim
            for last in moved:
                async with request(port, "/f/stream", headers={"Last-Event-ID": last}) as answer:
                    await answer.until(b"retry")
                    await insert(engine, Log, {"user": 1})
                    assert (await answer.next()).event == "item"


async def test_a_burst_is_given_to_a_slow_stream_in_pieces():
    log = MemoryLog()
    rig = Rig(lambda: log.topic("a"))
    async with (
        serving(rig.app) as port,
        request(port, "/f/stream", receive_buffer=4096) as slow,
        request(port, "/f/stream") as fast,
    ):
        await slow.next()
        await fast.next()
        await log.append("a", [{"n": n, "pad": "x" * 10_000} for n in range(300)])
        highest = 0
        for number in range(300):
            highest = max(highest, *(s.sender.pending for s in rig.live.hub.streams))
            assert json.loads((await fast.next()).data)["n"] == number
        for number in range(300):
            assert json.loads((await slow.next()).data)["n"] == number
        assert highest < 256 * 1024


class State:
    """A polled state that the test sets."""

    def __init__(self, **items: int) -> None:
        self.items = items

    async def __call__(self):
        return [{"id": name, "n": number} for name, number in self.items.items()]


async def test_who_joins_a_polled_feed_is_not_told_what_was_before():
    """Several changes that belong together have one place among them."""
    state = State(c=0)
    poll = Poll(state, interval=0.02, key="id")
    rig = Rig(poll, keyed=True)
    async with serving(rig.app) as port, request(port, "/f/stream") as first:
        await first.next()
        state.items = {"b": 1, "c": 1}
        await first.next()
        await first.next()
        state.items = {"b": 2, "c": 1}
        await first.next()
        async with request(port, "/f/stream") as answer:
            page = json.loads((await answer.next()).data)
            assert [item["n"] for item in page["items"]] == [2, 1]
            state.items = {"b": 2, "c": 3}
            assert json.loads((await answer.next()).data) == {"id": "c", "n": 3}


async def test_who_returns_to_a_polled_state_that_came_back_is_told_nothing():
    state = State(b=0)
    poll = Poll(state, interval=0.02, key="id")
    rig = Rig(poll, keyed=True)
    async with serving(rig.app) as port, request(port, "/f/stream") as first:
        last = (await first.next()).last_event_id
        for number in (1, 0):
            state.items = {"b": number}
            await first.next()
        async with request(port, "/f/stream", headers={"Last-Event-ID": last}) as answer:
            await answer.until(b"retry")
            state.items = {"b": 2}
            assert json.loads((await answer.next()).data) == {"id": "b", "n": 2}


@pytest.mark.parametrize("what", ["state", "storage"])
async def test_a_long_poll_is_answered_when_what_it_waits_for_is_another(what):
    state, log = State(b=0), MemoryLog()
    poll = Poll(state, interval=0.02)
    await log.append("a", {"n": 1})
    rig = Rig(poll if what == "state" else lambda: log.topic("a"))
    async with serving(rig.app) as port:
        _, page = await fetch(port, "/f")
        waiting = asyncio.create_task(fetch(port, f"/f?after={page['position']}&wait=60"))
        await until(lambda: rig.live.hub.readers and not rig.reader.unused)
        state.items = {"b": 1}
        await log.clear()
        status, _ = await asyncio.wait_for(waiting, 10)
        assert status == 410


async def test_streams_that_resume_at_one_place_share_the_read():
    """After a restart thousands come back at once, most of them with the same position."""
    log, gate = MemoryLog(), Gate()
    gate.open.set()
    rig = Rig(lambda: Gated(log.topic("a"), gate))
    await log.append("a", [{"n": n} for n in range(3)])

    async def resume(port, position):
        async with request(port, "/f/stream", headers={"Last-Event-ID": position}) as answer:
            return await shown(answer, 5)

    async with serving(rig.app) as port:
        _, page = await fetch(port, "/f")
        await log.append("a", [{"n": 3}, {"n": 4}])
        gate.open.clear()
        gate.read = 0
        streams = [asyncio.create_task(resume(port, page["position"])) for _ in range(20)]
        await until(lambda: sum(each.holds for each in targets(rig.live)) == 20)
        await log.append("a", [{"n": 5}])
        gate.open.set()
        assert await asyncio.gather(*streams) == [[3, 4, 5]] * 20
        assert gate.read == 1


async def test_a_poll_that_is_current_reads_no_page_and_never_an_old_one(tmp_path, monkeypatch):
    """What was committed before a poll is in its answer, whoever committed it."""
    read = pages_read(monkeypatch)
    async with database(tmp_path) as engine:
        table = Table(engine, Log)
        rig = Rig(lambda: table.where(user=1))
        await insert(engine, Log, {"user": 1})

        async with serving(rig.app) as port, request(port, "/f/stream") as answer:
            await answer.next()
            status, tag = await poll(port, "/f", "none")
            assert status == 200
            read.clear()
            assert [await poll(port, "/f", tag) for _ in range(3)] == [(304, tag)] * 3
            assert await poll(port, "/f", "other") == (200, tag)
            assert len(read) == 1
            for change in (
                "INSERT INTO logs (user) VALUES (1)",
                # Of this nobody is told, but a page shows the row as it is.
                "UPDATE logs SET user = 2 WHERE id = 1",
                "DELETE FROM logs",
            ):
                with sqlite3.connect(tmp_path / "app.db") as other:
                    other.execute(change)
                other.close()
                status, now = await poll(port, "/f", tag)
                assert (status, now != tag) == (200, True)
                tag = now
                await insert(engine, Log, {"user": 1})
                status, now = await poll(port, "/f", tag)
                assert (status, now != tag) == (200, True)
                tag = now
                assert await poll(port, "/f", tag) == (304, tag)


async def test_a_tag_from_before_nobody_followed_is_not_taken_for_current(tmp_path):
    """Who counts commits begins anew with each following, and must not come to the same count."""
    async with database(tmp_path) as engine:
        table = Table(engine, Log)
        table.origin.linger = 0
        rig = Rig(lambda: table.where(user=1))
        await insert(engine, Log, {"user": 1})

        async with serving(rig.app) as port:
            tag = "none"
            for _ in range(3):
                async with request(port, "/f/stream") as answer:
                    await answer.next()
                    status, tag = await poll(port, "/f", tag)
                    assert status == 200
                    assert await poll(port, "/f", tag) == (304, tag)
                await until(lambda: table.origin.head is None)
                with sqlite3.connect(tmp_path / "app.db") as other:
                    other.execute("INSERT INTO logs (user) VALUES (1)")
                other.close()
