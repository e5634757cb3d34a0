"""docs/examples/six_feeds.py: each feed has ten lines at most, and shows a change of each table."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from support.http import request
from support.server import serving

FILE = Path(__file__).parents[2] / "docs/examples/six_feeds.py"
MOST = 10


@pytest.fixture
async def example(tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE", f"sqlite:///{tmp_path}/feeds.db")
    spec = importlib.util.spec_from_file_location("six_feeds", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "six_feeds", module)
    spec.loader.exec_module(module)
    async with module.engine.begin() as connection:
        await connection.run_sync(module.Base.metadata.create_all)
    yield module
    await module.engine.dispose()


def test_each_feed_has_ten_lines_at_most():
    text = FILE.read_text()
    parts = re.split(r"\n# (.+)\n", text[text.index("live = LiveRouter()") :])[1:]
    lengths = {
        title: sum(1 for line in code.splitlines() if line.strip())
        for title, code in zip(parts[::2], parts[1::2], strict=True)
        if title != "The application"
    }
    assert len(lengths) == 6
    assert all(length <= MOST for length in lengths.values()), lengths


async def test_a_change_of_any_table_shows(example):
    m = example

    async def write(*statements):
        async with m.engine.begin() as connection:
            for statement in statements:
                await connection.execute(statement)

    def insert(model, **values):
        return sa.insert(model).values(**values)

    await write(
        insert(m.Team, id=1, name="Ops"),
        insert(m.Member, team_id=1, user_id=7),
        insert(m.Satellite, id=1, team_id=1, name="fra"),
        insert(m.Activity, id=1, satellite_id=1, client="Zed", requests=3),
        insert(m.Server, id=1, team_id=1, name="db", enabled=True),
        insert(m.Installation, id=1, server_id=1, version="1", failed=False),
        insert(m.Customer, id=1, name="Ada"),
        insert(m.Order, id=1, customer_id=1, placed_at=datetime(2026, 1, 1)),
    )
    steps = {
        "/api/clients?team_id=1": (
            sa.update(m.Satellite).values(name="ber"),
            {"id": 1, "client": "Zed", "satellite": "ber", "requests": 3},
        ),
        "/api/installations?team_id=1": (
            sa.update(m.Server).values(name="cache"),
            {"id": 1, "server": "cache", "version": "1"},
        ),
        "/api/servers?team_id=1": (
            sa.update(m.Installation).values(failed=True),
            {"id": 1, "name": "cache", "status": "failing"},
        ),
        "/api/metrics?team_id=1": (
            insert(m.Activity, id=2, satellite_id=1, client="Cursor", requests=4, errors=2),
            {"satellite_id": 1, "requests": 7, "errors": 2},
        ),
        "/api/teams?user_id=7": (
            insert(m.Member, team_id=1, user_id=8),
            {"id": 1, "name": "Ops", "members": 2},
        ),
        "/api/orders": (
            sa.update(m.Customer).values(name="Ada L"),
            {"id": 1, "customer": "Ada L", "placed_at": "2026-01-01T00:00:00"},
        ),
    }
    async with serving(m.app) as port:
        for path, (statement, wanted) in steps.items():
            stream = path.replace("?", "/stream?") if "?" in path else f"{path}/stream"
            async with request(port, stream) as answer:
                snapshot = await answer.next()
                assert [
                    len(v) for v in json.loads(snapshot.data).values() if v.__class__ is list
                ] == [1]
                await write(statement)
                message = await answer.next()
                assert json.loads(message.data) == wanted, path
