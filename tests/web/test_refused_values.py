"""A value of a request that a column cannot have is a 422 that names the parameter."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from headwater.sql import Table, sqlite_engine
from headwater.web.fastapi import LiveRouter, Source
from support.application import Application
from support.http import request
from support.server import serving
from support.tables import Base, Log


class Item(BaseModel):
    id: int


@pytest.fixture
async def app(tmp_path):
    engine = sqlite_engine(f"sqlite:///{tmp_path / 'data.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    logs = Table(engine, Log)
    live = LiveRouter()

    @live.feed("/of/{owner}", item=Item)
    async def of(owner: str, level: str | None = None) -> Source:
        return logs.where(user_id=owner).optional(level=level)

    @live.feed("/several", item=Item)
    async def several(number: str = "1") -> Source:
        return logs.where(user_id=[1, number])

    @live.feed("/own", item=Item)
    async def own(owner: str = "x") -> Source:
        return logs.where(user_id="not of the request")

    yield Application(live, prefix="/api")
    await engine.dispose()


@pytest.mark.parametrize("half", ["", "/stream"])
@pytest.mark.parametrize(
    ("path", "field", "place"),
    [
        ("/of/x{}", "owner", "path"),
        ("/of/99999999999999999999{}", "owner", "path"),
        ("/of/7{}?level=%00", "level", "query"),
        ("/several{}?number=1e5", "number", "query"),
    ],
)
async def test_the_answer_names_the_parameter(app, path, field, place, half):
    async with serving(app) as port, request(port, "/api" + path.format(half)) as answer:
        problem = json.loads(await answer.body())
        assert answer.status == 422
        assert [(each["field"], each["in"]) for each in problem["errors"]] == [(field, place)]


async def test_a_value_of_the_program_is_its_own_fault(app):
    async with serving(app) as port, request(port, "/api/own?owner=x") as answer:
        assert answer.status == 500


async def test_a_text_that_is_a_number_is_one(app):
    async with serving(app) as port, request(port, "/api/of/7") as answer:
        assert answer.status == 200
