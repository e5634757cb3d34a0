"""Feeds that are held in memory."""

import asyncio
import dataclasses

import pytest

import headwater.client
import headwater.client.sync
from headwater.client import Item, Removed, Reset, Snapshot
from headwater.client._held import HeldItems, NewestItems
from headwater.errors import PeerError, ResponseError, UsageError
from headwater.protocol import Event, encode


@dataclasses.dataclass
class Job:
    id: str
    state: str = "new"


def block(event, data, id=None):
    return encode(Event(data, event=event, id=id))


def snapshot(*items):
    return Snapshot("jobs", items, "s", "p", False)


def job(id, state="new"):
    return {"id": id, "state": state}


def page(*items):
    return {"jobs": list(items), "start": "s", "position": "p1", "has_more": False}


def test_a_map_has_what_the_feed_says_it_has():
    held = HeldItems("id", None, 10)
    assert held.apply(snapshot(job("a"), job("b")))
    assert held.apply(Item("job", job("b", "done"), "p"))
    assert held.apply(Item("job", job("c"), "p"))
    assert held.apply(Removed("job", {"id": "a"}, "p"))
    assert held == {"b": job("b", "done"), "c": job("c")}
    assert not held.apply(Reset("expired"))
    assert len(held) == 2
    held.apply(snapshot(job("d")))
    assert list(held) == ["d"]


def test_a_key_of_several_members_is_a_tuple_whatever_items_are_given_as():
    held = HeldItems(["team", "id"], lambda data: data["n"], 10)
    held.apply(snapshot({"team": 1, "id": 2, "n": 3}))
    assert held == {(1, 2): 3}
    held.apply(Removed("job", {"id": 2, "team": 1}, "p"))
    assert held == {}


def test_one_may_iterate_while_the_feed_goes_on():
    held, newest = HeldItems("id", None, 10), NewestItems(10)
    for each in (held, newest):
        each.apply(snapshot(job("a"), job("b")))
        for number, _ in enumerate(each):
            each.apply(Item("job", job(f"{number}"), "p"))
        assert len(each) == 4


def test_a_list_keeps_the_newest():
    newest = NewestItems(3)
    newest.apply(snapshot(job("a"), job("b")))
    for id in "cd":
        newest.apply(Item("job", job(id), "p"))
    assert newest[:] == [job("b"), job("c"), job("d")]
    assert (newest[0], newest[-1], len(newest)) == (job("b"), job("d"), 3)
    assert not newest.apply(Reset("unknown"))
    newest.apply(snapshot(*map(job, "efgh")))
    assert [each["id"] for each in newest] == ["f", "g", "h"]


def test_a_map_that_grows_over_its_bound_is_an_error():
    held = HeldItems("id", None, 2)
    held.apply(snapshot(job("a"), job("b")))
    held.apply(Item("job", job("b"), "p"))
    with pytest.raises(PeerError, match="max_items=2"):
        held.apply(Item("job", job("c"), "p"))


@pytest.mark.parametrize("item", [{"name": "a"}, {"id": []}])
def test_an_item_without_its_key_is_named(item):
    with pytest.raises(PeerError, match="no key id"):
        HeldItems("id", None, 2).apply(snapshot(item))


@pytest.mark.parametrize("module", [headwater.client, headwater.client.sync])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("live_map", {"key": ()}),
        ("live_map", {"key": []}),
        ("live_map", {"key": 7}),
        ("live_map", {"key": None}),
        ("live_map", {"max_items": "10"}),
        ("live_list", {"keep": None}),
        ("live_map", {"key": [1]}),
        ("live_map", {"max_items": 0}),
        ("live_list", {"keep": 0}),
        ("live_list", {"last_event_id": "1"}),
        ("live_map", {"position_file": "p"}),
        ("live_map", {"item": 7}),
    ],
)
def test_what_cannot_be_held_is_refused(module, name, options):
    with pytest.raises(UsageError):
        getattr(module, name)("http://h/jobs", **options)


async def test_whoever_waits_without_a_block_is_told_so():
    """It would wait for ever."""
    with pytest.raises(UsageError, match="with block"):
        await headwater.client.live_list("http://h/jobs").changed()
    with pytest.raises(UsageError, match="with block"):
        headwater.client.sync.live_map("http://h/jobs").changed(timeout=0)


async def test_a_live_map_is_current_across_a_cut_and_says_when_it_changed(server):
    go = asyncio.Event()
    server.script(
        server.stream(b"retry: 0\n\n", block("snapshot", page(job("a")), "p1")),
        server.stream(block("job", job("b"), "p2"), go, block("job_removed", {"id": "a"}, "p3")),
        server.answer(403, b'{"detail": "no more"}'),
    )
    async with asyncio.timeout(10), headwater.client.live_map(server.url, item=Job) as jobs:
        assert (len(jobs), jobs.version) == (0, 0)
        assert await jobs.changed() == 1
        assert await jobs.changed(1) == 2
        assert jobs == {"a": Job("a"), "b": Job("b")}
        go.set()
        assert await jobs.changed(2) == 3
        assert jobs == {"b": Job("b")}
        with pytest.raises(ResponseError, match="no more"):
            await jobs.changed(3)
        assert jobs == {"b": Job("b")}
    assert server.seen[1].position == "p1"


async def test_a_live_list_is_current(server):
    server.script(server.stream(block("snapshot", page(job("a")), "p1"), block("job", job("b"))))
    made = headwater.client.live_list(server.url, keep=1, item=Job)
    async with asyncio.timeout(10), made as jobs:
        await jobs.changed(await jobs.changed())
        assert list(jobs) == [Job("b")]
        with pytest.raises(PeerError, match="has ended"):
            await jobs.changed(2)


async def test_the_same_without_asyncio(server):
    go = asyncio.Event()
    loop = asyncio.get_running_loop()
    server.script(
        server.stream(block("snapshot", page(job("a")), "p1"), go, block("job", job("b"), "p2")),
        server.stream(server.HOLD),
    )

    def read():
        with headwater.client.sync.live_map(server.url, retry=0) as jobs:
            version = jobs.changed(timeout=10)
            assert jobs == {"a": job("a")}
            assert jobs.changed(version, timeout=0.01) == version
            loop.call_soon_threadsafe(go.set)
            assert jobs.changed(version, timeout=10) == version + 1
            assert list(jobs) == ["a", "b"]
        with pytest.raises(PeerError, match="has ended"):
            jobs.changed(2)

    async with asyncio.timeout(20):
        await asyncio.to_thread(read)


async def test_a_live_list_without_asyncio_raises_what_ended_it(server):
    server.script(server.answer(401))

    def read():
        with headwater.client.sync.live_list(server.url) as jobs:
            with pytest.raises(ResponseError):
                jobs.changed()

    async with asyncio.timeout(20):
        await asyncio.to_thread(read)


async def test_one_that_was_left_has_no_connection(server):
    server.script(server.stream(block("snapshot", page(job("a")), "p1"), server.HOLD))
    async with asyncio.timeout(10):
        async with headwater.client.live_map(server.url) as jobs:
            await jobs.changed()
        await server.left.wait()
        assert list(jobs) == ["a"]
