"""Requests that wait for the same thing share one read, and each gets its own answer."""

from __future__ import annotations

import asyncio
import json

from pydantic import BaseModel

from headwater.eventlog import MemoryLog
from headwater.web.fastapi import LiveRouter, StreamLimits
from support.application import Application
from support.http import request
from support.server import serving
from support.until import until

MANY = 60


class Item(BaseModel):
    n: int


class CountedLog(MemoryLog):
    """Counts the reads of pages. They wait while ``go_on`` is not set."""

    reads = 0

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def read(self, topic, after, limit):
        self.reads += limit > 1  # a position is looked up with a limit of 1
        return await super().read(topic, after, limit)

    async def latest(self, topic, limit, before=None):
        self.reads += 1
        found = await super().latest(topic, limit, before)
        await self.go_on.wait()
        return found


class Rig:
    def __init__(self) -> None:
        self.log = CountedLog()
        self.live = LiveRouter(limits=StreamLimits(per_caller=None, per_address=None))
        self.app = Application(self.live)
        self.asked = 0

        @self.live.feed("/things", item=Item)
        async def things():
            self.asked += 1
            return self.log.topic("t")

    async def waiting(self, port, path, number=MANY):
        """So many requests that wait."""
        tasks = [asyncio.create_task(self.get(port, path)) for _ in range(number)]
        await until(lambda: self.live.stats.waiting == number)
        return tasks

    async def get(self, port, path):
        async with request(port, path) as answer:
            return answer.status, json.loads(await answer.body())


async def test_one_read_answers_all_that_wait_for_the_same():
    """Ten thousand clients that poll at one place must not be ten thousand statements."""
    rig = Rig()
    await rig.log.append("t", {"n": 1})
    async with serving(rig.app) as port:
        _, first = await rig.get(port, "/things")
        tasks = await rig.waiting(port, f"/things?after={first['position']}&wait=30")
        before = rig.log.reads
        await rig.log.append("t", {"n": 2})
        answers = await asyncio.gather(*tasks)
        assert answers == [answers[0]] * MANY
        assert [each["n"] for each in answers[0][1]["items"]] == [2]
        assert rig.log.reads - before == 1
        # What came is the place of the next wait: another item is another answer.
        tasks = await rig.waiting(port, f"/things?after={answers[0][1]['position']}&wait=30", 2)
        await rig.log.append("t", {"n": 3})
        for status, page in await asyncio.gather(*tasks):
            assert (status, [each["n"] for each in page["items"]]) == (200, [3])


async def test_requests_for_the_same_page_share_the_read_that_begins_after_them():
    """A page that many want at once must not be as many statements, and is never out of date."""
    rig = Rig()
    await rig.log.append("t", {"n": 1})
    async with serving(rig.app) as port:
        rig.log.go_on.clear()
        early = asyncio.create_task(rig.get(port, "/things"))
        await until(lambda: rig.log.reads == 1)
        await rig.log.append("t", {"n": 2})
        late = [asyncio.create_task(rig.get(port, "/things")) for _ in range(MANY)]
        other = asyncio.create_task(rig.get(port, "/things?limit=1"))
        await until(lambda: rig.log.reads == 2 and rig.asked == MANY + 2)
        for _ in range(20):  # from the handler to the read
            await asyncio.sleep(0)
        rig.log.go_on.set()
        assert [each["n"] for each in (await early)[1]["items"]] == [1]
        assert [each["n"] for each in (await other)[1]["items"]] == [2]
        for status, page in await asyncio.gather(*late):
            assert (status, [each["n"] for each in page["items"]]) == (200, [1, 2])
        assert rig.log.reads == 3


async def test_clients_of_an_empty_feed_share_it_too():
    rig = Rig()
    async with serving(rig.app) as port:
        tasks = await rig.waiting(port, "/things?wait=30")
        before = rig.log.reads
        await rig.log.append("t", {"n": 1})
        for status, page in await asyncio.gather(*tasks):
            assert (status, [each["n"] for each in page["items"]]) == (200, [1])
        assert rig.log.reads - before == 1


async def test_who_asks_for_something_else_does_not_share():
    """Another limit is another page."""
    rig = Rig()
    await rig.log.append("t", {"n": 1})
    async with serving(rig.app) as port:
        _, first = await rig.get(port, "/things")
        path = f"/things?after={first['position']}&wait=30&limit="
        one, many = [asyncio.create_task(rig.get(port, f"{path}{limit}")) for limit in (1, 10)]
        await until(lambda: rig.live.stats.waiting == 2)
        await rig.log.append("t", [{"n": 2}, {"n": 3}])
        assert [each["n"] for each in (await one)[1]["items"]] == [2]
        assert [each["n"] for each in (await many)[1]["items"]] == [2, 3]


async def test_each_waits_for_its_own_time_and_gets_the_place_of_then():
    rig = Rig()
    await rig.log.append("t", {"n": 1})
    async with serving(rig.app) as port:
        _, first = await rig.get(port, "/things")
        path = f"/things?after={first['position']}&wait="
        (long,) = await rig.waiting(port, f"{path}30", 1)
        status, page = await rig.get(port, f"{path}0.05")
        assert (status, page["items"], page["position"]) == (200, [], first["position"])
        assert rig.live.stats.waiting == 1
        await rig.log.append("t", {"n": 2})
        assert [each["n"] for each in (await long)[1]["items"]] == [2]


async def test_one_that_leaves_disturbs_none_and_the_last_ends_the_wait():
    rig = Rig()
    await rig.log.append("t", {"n": 1})
    async with serving(rig.app) as port:
        _, first = await rig.get(port, "/things")
        path = f"/things?after={first['position']}&wait=30"
        left, stays = await rig.waiting(port, path, 2)
        left.cancel()
        await until(lambda: rig.live.stats.waiting == 1)
        await rig.log.append("t", {"n": 2})
        assert [each["n"] for each in (await stays)[1]["items"]] == [2]
        (left,) = await rig.waiting(port, path.replace("after", "limit=5&after") + "&x=1", 1)
        left.cancel()
        await until(lambda: rig.live.stats.waiting == 0)


async def test_each_gets_the_error_of_a_log_that_is_another_one():
    rig = Rig()
    await rig.log.append("t", {"n": 1})
    async with serving(rig.app) as port:
        _, first = await rig.get(port, "/things")
        tasks = await rig.waiting(port, f"/things?after={first['position']}&wait=30", 5)
        await rig.log.clear()
        for status, problem in await asyncio.gather(*tasks):
            assert (status, problem["status"]) == (410, 410)
