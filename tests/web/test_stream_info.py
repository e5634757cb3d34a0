"""Who follows what, for those who run a server: the open streams, and what is read for them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from fastapi import Request
from pydantic import BaseModel

from headwater.eventlog import MemoryLog
from headwater.web.fastapi import EventStream, LiveRouter, Source, guard, identify
from support.application import Application
from support.http import request
from support.server import serving
from support.until import until


class Item(BaseModel):
    text: str


class Rig:
    def __init__(self) -> None:
        self.live = LiveRouter()
        self.app = Application(self.live, prefix="/api")
        self.log = MemoryLog()

        async def somebody(request: Request) -> None:
            identify(request, "user:7")

        @self.live.feed(
            "/things", item=Item, collection="things", event="thing", requires=[guard(somebody)]
        )
        async def things() -> Source:
            return self.log.topic("things")

        @self.live.get("/ticks/stream", sse=True)
        async def ticks(stream: EventStream) -> None:
            stream.keep_alive()


async def test_each_stream_says_whose_it_is_and_how_far_it_is():
    rig = Rig()
    began = datetime.now(UTC)
    async with (
        serving(rig.app) as port,
        request(port, "/api/things/stream?limit=5") as answer,
        request(port, "/api/ticks/stream") as other,
    ):
        await answer.next()
        await other.until(b":\n\n")
        await rig.log.append("things", {"text": "one"})
        position = (await answer.next()).last_event_id
        one, two = rig.live.streams()
        assert one.subjects == ("user:7",)
        assert one.address == "/api/things/stream?limit=5"
        assert one.client == "127.0.0.1"
        assert one.position == position
        assert (one.lag, one.waiting_bytes) == (0, 0)
        assert began <= one.opened_at <= two.opened_at <= datetime.now(UTC)
        assert (two.feed, two.position, two.lag) == (None, None, None)
        assert one.id != two.id
        (tail,) = rig.live.tails()
        assert tail.changes == 1
        assert tail.streams == {one.feed: 1}
        if sys.platform == "linux":
            await until(lambda: (rig.live.streams()[0].sent_bytes or 0) >= len(answer.raw))
    assert rig.live.streams() == []


async def test_one_can_be_closed_and_its_client_goes_on():
    rig = Rig()
    async with serving(rig.app) as port:
        async with request(port, "/api/things/stream") as answer:
            position = (await answer.next()).last_event_id
            (one,) = rig.live.streams()
            assert rig.live.close_stream(one.id)
            assert await answer.rest() == []
            assert answer.retry is not None and 1000 <= answer.retry <= 5000
        await until(lambda: not rig.live.streams())
        assert not rig.live.close_stream(one.id)
        await rig.log.append("things", {"text": "missed"})
        back = {"Last-Event-ID": position}
        async with request(port, "/api/things/stream", headers=back) as answer:
            assert (await answer.next()).data == '{"text":"missed"}'


async def test_a_client_that_does_not_keep_up_is_seen():
    rig = Rig()
    async with (
        serving(rig.app) as port,
        request(port, "/api/things/stream", receive_buffer=4096) as answer,
    ):
        await answer.next()

        async def behind() -> bool:
            await rig.log.append("things", {"text": "x" * 50_000})
            return bool(rig.live.streams()[0].lag)

        await until(behind, pause=0.01)
        stream = rig.live.streams()[0]
        assert stream.waiting_bytes > 0
        async with request(port, "/api/things") as page:
            assert stream.position != json.loads(await page.body())["position"]
