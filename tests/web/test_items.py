"""What an item's model makes of what the source holds, over real connections."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    model_validator,
)

from headwater.eventlog import MemoryLog
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving


class Plain(BaseModel):
    n: int


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int


class Looks(BaseModel):
    """Refuses what is not of its fields, by its own code."""

    n: int

    @model_validator(mode="before")
    @classmethod
    def only_its_own(cls, given: Any) -> Any:
        assert set(given) == {"n"}, given
        return given


class Made(BaseModel):
    """Has a constructor of its own."""

    n: int

    def __init__(self, *, n: int) -> None:
        super().__init__(n=n)


class Renamed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: int = Field(validation_alias=AliasChoices("count", AliasPath("n")))


class Whole(RootModel[dict[str, Any]]):
    pass


@pytest.mark.parametrize(
    "model", [Plain, Strict, Open, Looks, Made, Renamed, Whole, dict[str, Any]]
)
async def test_what_the_model_does_not_know_is_left_out(model):
    log = MemoryLog()
    live = LiveRouter()
    app = Application(live, prefix="/api")

    @live.feed("/things", item=model, collection="things", event="thing")
    async def things() -> Source:
        return log.topic("things")

    await log.append("things", [{"n": 7, "secret": "x"}])
    async with serving(app) as port:
        async with request(port, "/api/things") as answer:
            (item,) = json.loads(await answer.body())["things"]
        async with request(port, "/api/things/stream") as stream:
            snapshot = await stream.next()
            await log.append("things", [{"n": 8, "secret": "x"}])
            event = await stream.next()
    assert json.loads(snapshot.data)["things"] == [item]
    if model in (Whole, dict[str, Any]):
        assert {"n": 7, "secret": "x"}.items() <= item.items()
    else:
        name = "number" if model is Renamed else "n"
        assert item == {name: 7}
        assert json.loads(event.data) == {name: 8}
