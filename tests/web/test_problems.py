"""Errors as problems, and those that are answered without a body."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from headwater.web.fastapi import LiveRouter
from support.http import request
from support.server import serving


class Item(BaseModel):
    n: int


@pytest.fixture
async def port():
    app = FastAPI()
    LiveRouter().install(app, problems="application")

    @app.get("/status/{status}")
    async def status(status: int):
        raise HTTPException(status, headers={"ETag": '"7"'})

    @app.post("/items")
    async def items(item: Item): ...

    async with serving(app) as port:
        yield port


@pytest.mark.parametrize("status", [204, 304])
async def test_what_has_no_body_gets_none(port, status):
    """On a connection that is kept alive it would be taken for the next answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /status/%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % status)
    raw = await asyncio.wait_for(reader.read(), 10)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b'etag: "7"' in head
    assert body == b""
    writer.close()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
async def test_a_value_that_json_does_not_have_is_shown_as_text(port, value):
    def refuse(name):
        raise AssertionError(name)

    options = {"body": f'{{"n":{value}}}'.encode(), "headers": {"Content-Type": "application/json"}}
    async with request(port, "/items", method="POST", **options) as answer:
        assert answer.status == 422
        json.loads(await answer.body(), parse_constant=refuse)
