"""What is asked again while a stream lives is asked anew, every time."""

from __future__ import annotations

import json

import pytest
from fastapi import Request, Response
from pydantic import BaseModel

from headwater.eventlog import MemoryLog
from headwater.web.fastapi import EventStream, LiveRouter, Problem, Source, guard, identify
from support.application import Application
from support.http import request
from support.server import serving


class Item(BaseModel):
    id: str


class Rig:
    """A feed and a stream behind one guard, which keeps what it found in the request's state."""

    def __init__(self) -> None:
        self.allowed = True
        self.asked = 0
        self.live = LiveRouter(recheck=30)
        self.app = Application(self.live, prefix="/api")
        log = MemoryLog()

        async def someone(request: Request, response: Response) -> None:
            if not hasattr(request.state, "allowed"):
                self.asked += 1
                request.state.allowed = self.allowed
            identify(request, "user:7")
            response.headers.append("set-cookie", "seen=1")
            if not request.state.allowed:
                raise Problem(401, "Sign in.")

        @self.live.feed(
            "/things", item=Item, collection="things", event="thing", requires=[guard(someone)]
        )
        async def things() -> Source:
            return log.topic("things")

        @self.live.get("/ticks/stream", sse=True, dependencies=[guard(someone)])
        async def ticks(stream: EventStream) -> None:
            await stream.send({"tick": 1})
            stream.keep_alive()


@pytest.mark.parametrize("path", ["/api/things/stream", "/api/ticks/stream"])
async def test_what_a_guard_keeps_in_the_state_does_not_answer_later_questions(path: str):
    rig = Rig()
    async with serving(rig.app) as port, request(port, path) as answer:
        await answer.next()
        before = rig.asked
        for number in range(3):
            await rig.live.recheck("user:7")
            assert rig.asked == before + number + 1
        rig.allowed = False
        await rig.live.recheck("user:7")
        told = await answer.rest()
        assert [(m.event, json.loads(m.data)) for m in told] == [("error", {"status": 401})]
