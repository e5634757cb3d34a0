"""Feeds in the shape that an application has: aliases in removals, envelopes, ``onmessage``."""

from __future__ import annotations

import json
import uuid

import pytest
import sqlalchemy as sa
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_serializer
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from headwater.client import Item, Removed, Snapshot, follow, live_map
from headwater.errors import DeclarationError, ResponseError
from headwater.eventlog import MemoryLog
from headwater.sql import Table, sqlite_engine, track
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving

ENVELOPE = {"success": True, "data": ...}


class Base(DeclarativeBase):
    pass


@track(keyed=True)
class Client(Base):
    __tablename__ = "clients"

    client_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    team_no: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class ClientItem(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    client_id: uuid.UUID = Field(alias="clientId")
    team: int = Field(
        validation_alias=AliasChoices("team_no", "teamNo"), serialization_alias="teamNo"
    )
    name: str

    @field_serializer("team")
    def named(self, team: int) -> str:
        return f"team-{team}"


ADA = {"client_id": uuid.UUID(int=1), "team_no": 7, "name": "Ada"}
SHOWN = {"clientId": str(uuid.UUID(int=1)), "teamNo": "team-7", "name": "Ada"}
KEY = {"clientId": SHOWN["clientId"], "teamNo": SHOWN["teamNo"]}


@pytest.fixture
async def rig(tmp_path):
    """A port with the same rows at several paths, and a function that runs a statement."""
    engine = sqlite_engine(f"sqlite:///{tmp_path}/app.db")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(sa.insert(Client).values(ADA))
    live, table = LiveRouter(heartbeat=20.0), Table(engine, Client)
    options = {"item": ClientItem, "collection": "clients", "keyed": True}

    @live.feed("/plain", event="client", **options)
    async def plain() -> Source:
        return table.where()

    @live.feed("/wrapped", event="client", envelope=ENVELOPE, **options)
    async def wrapped() -> Source:
        return table.where()

    @live.feed("/messages", event="message", **options)
    async def messages() -> Source:
        return table.where()

    async def run(*statements):
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(statement)

    app = Application(live, prefix="/api")
    async with serving(app) as port:
        yield port, run, app
    await engine.dispose()


async def test_a_removal_has_the_key_by_the_names_and_values_of_the_item(rig):
    port, run, _ = rig
    async with request(port, "/api/plain/stream") as answer:
        snapshot = json.loads((await answer.next()).data)
        assert snapshot["clients"] == [SHOWN]
        await run(sa.delete(Client))
        removal = await answer.next()
        assert (removal.event, json.loads(removal.data)) == ("client_removed", KEY)
    async with request(port, f"/api/plain?after={snapshot['position']}") as answer:
        assert json.loads(await answer.body())["removed"] == [KEY]


async def test_a_live_map_of_aliases_is_right(rig):
    port, run, _ = rig
    async with live_map(f"http://127.0.0.1:{port}/api/plain", key=["clientId", "teamNo"]) as held:
        version = await held.changed()
        assert list(held) == [(SHOWN["clientId"], "team-7")]
        await run(sa.delete(Client))
        await held.changed(version)
        assert not held


async def test_an_envelope_is_around_pages_and_events_of_both_halves(rig):
    port, run, _ = rig
    async with request(port, "/api/wrapped") as answer:
        body = await answer.body()
    assert json.loads(body)["success"] is True
    position = json.loads(body)["data"]["position"]
    async with request(port, "/api/wrapped/stream") as answer:
        assert (await answer.next()).data.encode() == body
        await run(sa.update(Client).values(name="Bo"), sa.delete(Client))
        await run(sa.insert(Client).values(ADA))
        events = [await answer.next() for _ in range(2)]
        assert [json.loads(event.data) for event in events] == [
            {"success": True, "data": KEY},
            {"success": True, "data": SHOWN},
        ]
    async with request(port, f"/api/wrapped?after={position}") as answer:
        page = json.loads(await answer.body())
        assert (page["success"], page["data"]["removed"]) == (True, [KEY])


async def test_clients_open_the_envelope(rig):
    port, run, _ = rig
    address = f"http://127.0.0.1:{port}/api/wrapped"
    async with follow(address, envelope="data") as feed:
        first = await anext(feed)
        assert isinstance(first, Snapshot)
        assert list(first.items) == [SHOWN]
        await run(sa.update(Client).values(name="Bo"))
        second = await anext(feed)
        assert isinstance(second, Item)
        assert second.data == SHOWN | {"name": "Bo"}
        await run(sa.delete(Client))
        third = await anext(feed)
        assert isinstance(third, Removed)
        assert third.key == KEY
    async with follow(address, envelope="payload") as feed:
        with pytest.raises(ResponseError, match="no object 'payload'"):
            await anext(feed)
    async with request(port, "/api/wrapped/stream?heartbeat=event") as answer:
        heartbeat = json.loads((await answer.next()).data)
        assert heartbeat["envelope"] == "data"


async def test_an_event_may_be_called_message(rig):
    """An EventSource gives it to ``onmessage``, without a listener by name."""
    port, run, _ = rig
    async with request(port, "/api/messages/stream") as answer:
        await answer.next()
        await run(sa.update(Client).values(name="Bo"))
        message = await answer.next()
        assert (message.event, json.loads(message.data)["name"]) == ("message", "Bo")
        await run(sa.delete(Client))
        assert (await answer.next()).event == "message_removed"


async def test_openapi_describes_the_envelope(rig):
    _, _, app = rig
    document = app.openapi()
    answer = document["paths"]["/api/wrapped"]["get"]["responses"]["200"]
    name = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = document["components"]["schemas"][name]
    assert schema["properties"]["success"]["const"] is True
    assert schema["properties"]["data"]["$ref"].endswith("WrappedFeedPage")
    assert "WrappedFeedItemEnvelope" in json.dumps(document["paths"]) + json.dumps(
        document["components"]["schemas"]
    )


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        ({"success": True}, "must be a mapping with `...` as one value"),
        ({"data": ..., "again": ...}, "must be a mapping with `...` as one value"),
        ([...], "must be a mapping with `...` as one value"),
        ({"data": ..., "at": object()}, "at"),
    ],
)
def test_an_envelope_without_one_place_is_refused(envelope, said):
    with pytest.raises(DeclarationError, match=said):
        LiveRouter().feed("/x", item=ClientItem, envelope=envelope)


async def test_a_feed_of_a_topic_has_an_envelope_too():
    log, live = MemoryLog(), LiveRouter()

    @live.feed("/ticks", item=dict, collection="ticks", event="tick", envelope={"result": ...})
    async def ticks() -> Source:
        return log.topic("ticks")

    await log.append("ticks", {"n": 1})
    async with serving(Application(live)) as port, request(port, "/ticks") as answer:
        assert json.loads(await answer.body())["result"]["ticks"][0]["n"] == 1
