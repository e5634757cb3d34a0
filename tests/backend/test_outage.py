"""The database goes away while the backend runs: 503, and streams go on when it is back."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from headwater.backend.database import Address, Database
from headwater.backend.settings import Settings
from headwater.errors import SourceUnavailableError
from support.backend import Person, World, cheap, listening, running
from support.http import request
from support.postgres import Postgres
from support.proxy import proxied

ENTRY = {"entries": [{"message": "m"}]}


def refused(answer) -> str:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert "INSERT" not in answer.text
    return answer.json()["detail"]


@pytest.fixture
async def impatient(settings: Settings, standing, monkeypatch: pytest.MonkeyPatch):
    """A world that waits for a lock for a moment only."""
    import headwater.backend.database as database
    from headwater.sql import configure_sqlite

    monkeypatch.setattr(
        database,
        "configure_sqlite",
        lambda engine, **options: configure_sqlite(engine, busy_timeout=0.05, **options),
    )
    async with running(settings, standing) as world:
        yield world


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_locked_by_another_program(impatient: World):
    ann = await impatient.user("ann")
    other = sqlite3.connect(impatient.backend.database.address.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        refused(await ann.client.post("/api/logs", json=ENTRY))
        # Readers do not wait for writers.
        assert (await ann.client.get("/api/logs")).json()["logs"] == []
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert (await ann.client.post("/api/logs", json=ENTRY)).status_code == 201


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_the_file_was_moved_away(world: World, ann: Person):
    path = world.backend.database.address.path
    aside = path.with_suffix(".aside")
    os.rename(path, aside)
    try:
        refused(await ann.client.get("/api/users/me"))
        refused(await ann.client.get("/api/logs"))
        refused(await ann.client.post("/api/logs", json=ENTRY))
        login = {"email": ann.email, "password": "x"}
        refused(await world.anyone.post("/api/auth/login", json=login))
        assert not path.exists()
    finally:
        os.rename(aside, path)
    assert (await ann.client.get("/api/users/me")).status_code == 200


@pytest.mark.parametrize("message", ["database or disk is full", "attempt to write a readonly"])
@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_full_or_read_only(world: World, ann: Person, message: str):
    """SQLite itself says so here: a page limit, and a connection that may only read."""
    engine = world.backend.database.engine
    pragma = "max_page_count = 1" if "full" in message else "query_only = ON"
    undo = "max_page_count = 1000000" if "full" in message else "query_only = OFF"
    big = {"entries": [{"message": "x" * 16_000}] * 60}

    async def tell(statement: str) -> None:
        held = [await engine.connect() for _ in range(4)]
        for connection in held:
            await connection.exec_driver_sql(f"PRAGMA {statement}")
            await connection.close()

    await tell(pragma)
    refused(await ann.client.post("/api/logs", json=big))
    assert (await ann.client.get("/api/logs")).json()["logs"] == []
    await tell(undo)
    assert (await ann.client.post("/api/logs", json=big)).status_code == 201


async def test_a_server_that_takes_no_writes(migrated_server: Postgres):
    """Providers set this when the disk is nearly full, and a replica after a fail-over is so."""
    name = migrated_server.database(template="migrated")
    read_only = f"ALTER DATABASE {name} SET default_transaction_read_only"
    async with running(cheap(Path(), database=migrated_server.url(name))) as world:
        ann, boss = await world.user("ann"), await world.admin()
        satellite = (await boss.client.post("/api/satellites", json={"name": "s"})).json()
        reports = f"/api/satellites/{satellite['id']}/metrics"
        key = {"Authorization": f"Bearer {satellite['api_key']}"}
        report = dict.fromkeys(("cpu_percent", "memory_mb", "requests_per_s", "errors_per_s"), 1)

        async def tell(value: str) -> None:
            with psycopg.connect(migrated_server.conninfo("postgres"), autocommit=True) as owner:
                owner.execute(f"{read_only} = {value}")
            await world.backend.database.engine.dispose()

        await tell("on")
        refused(await ann.client.post("/api/logs", json=ENTRY))
        refused(await world.anyone.post(reports, json={"reports": [report]}, headers=key))
        assert (await ann.client.get("/api/logs")).json()["logs"] == []
        ready = await world.anyone.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]["status"]) == (503, "down")
        await tell("off")
        assert (await ann.client.post("/api/logs", json=ENTRY)).status_code == 201


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_streams_stay_open_and_go_on(settings: Settings, standing):
    async with listening(settings, standing) as (world, port):
        ann = await world.user("ann")
        path = world.backend.database.address.path
        aside = path.with_suffix(".aside")
        headers = {"Cookie": ann.cookie, "Accept": "text/event-stream"}
        async with request(port, "/api/logs/stream", headers=headers) as stream:
            await stream.next()
            os.rename(path, aside)
            await world.app.state.live.recheck()
            refused(await ann.client.post("/api/logs", json=ENTRY))
            os.rename(aside, path)
            assert (await ann.client.post("/api/logs", json=ENTRY)).status_code == 201
            live = await stream.next()
    assert (live.event, json.loads(live.data)["message"]) == ("log", "m")


@pytest.mark.long  # the driver itself waits for five seconds
@pytest.mark.parametrize("session", ["read", "write"])
async def test_a_server_that_hangs_is_an_outage(postgres: Postgres, session: str):
    """It keeps its connections and answers nothing, as a machine that stands still does."""
    async with proxied(f"{postgres.folder}/.s.PGSQL.5432") as proxy:
        address = Address.parse(f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres")
        database = Database(address, patience=(0.2, 0.2))
        opened = database.read if session == "read" else database.write
        async with opened() as before:
            await before.execute(text("SELECT 1"))
        proxy.hold()
        with pytest.raises(SourceUnavailableError, match="does not answer"):
            async with opened() as meanwhile:
                await meanwhile.execute(text("SELECT 1"))
        proxy.release()
        async with opened() as after:
            await after.execute(text("SELECT 1"))
        await database.close()


async def test_whoever_was_removed_meanwhile_writes_nothing(
    world: World, ann: Person, monkeypatch: pytest.MonkeyPatch
):
    """Between the look at the caller's rights and the write there are moments."""
    credentials = world.backend.credentials
    of_session = credentials.of_session

    async def found(token: str):
        principal = await of_session(token)
        await world.backend.users.remove(ann.id)
        return principal

    monkeypatch.setattr(credentials, "of_session", found)
    answer = await ann.client.post("/api/logs", json=ENTRY)
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
