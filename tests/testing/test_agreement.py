"""The assertion that a feed's two halves agree, and that it finds halves that do not."""

import json

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse

from headwater.protocol import Event, encode
from headwater.testing import LiveClient, assert_halves_agree


@pytest.mark.parametrize("count", [0, 1, 20, 45, 250])
async def test_the_halves_of_a_feed_agree(world, count):
    if count:
        await world.read(*map(float, range(count)))
    async with LiveClient(world.app, patience=20) as client:
        await assert_halves_agree(client, "/api/readings")


async def test_the_halves_of_a_keyed_feed_agree(world):
    async with LiveClient(world.app, patience=20) as client:
        await assert_halves_agree(client, "/api/weather")


def page(*ids, position="p9", start=None, has_more=False):
    items = [{"id": id} for id in ids]
    return {"items": items, "start": start, "position": position, "has_more": has_more}


class Faulty:
    """A pair by hand, with one fault."""

    def __init__(self, fault):
        self.app = FastAPI()
        newer = [f"{number}" for number in range(5)]

        @self.app.get("/items")
        async def rest(after: str | None = None):
            if after == "unknown":
                status = 200 if fault == "no 410" else 410
                return JSONResponse({"reason": "unknown", **page()}, status)
            if after is not None:
                return page(*newer)
            return page("a", "b")

        @self.app.get("/items/stream")
        async def stream():
            return StreamingResponse(self.events(fault, newer), media_type="text/event-stream")

        @self.app.middleware("http")
        async def positions(request, call_next):
            self.position = request.headers.get("last-event-id")
            return await call_next(request)

    async def events(self, fault, newer):
        if self.position == "unknown":
            reason = "expired" if fault == "other reason" else "unknown"
            yield encode(Event({"reason": reason}, event="reset"))
        elif self.position is not None:
            shown = {"missing": newer[1:], "order": newer[::-1], "more": [*newer, "x"]}
            # In one piece: what is too much is there when the rest is.
            items = shown.get(fault, newer)
            yield b"".join(encode(Event({"id": id}, event="item", id=id)) for id in items)
            return
        data = page("a") if fault == "snapshot" else page("a", "b")
        yield encode(Event(json.dumps(data), event="snapshot", id="p9"))


async def test_a_pair_by_hand_without_a_fault_passes():
    async with LiveClient(Faulty(None).app) as client:
        await assert_halves_agree(client, "/items")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("snapshot", "the snapshot of /items is not its page"),
        ("missing", "the stream ended before a message"),
        ("order", "the halves of /items differ"),
        ("more", "nothing should have come"),
        ("no 410", "with an unknown position answered 200"),
        ("other reason", "refuse differently"),
    ],
)
async def test_each_fault_is_found(fault, words):
    async with LiveClient(Faulty(fault).app, patience=3) as client:
        with pytest.raises(AssertionError, match=words):
            await assert_halves_agree(client, "/items")
