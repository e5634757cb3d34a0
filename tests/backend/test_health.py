"""Probes and measures."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from pathlib import Path

import httpx
import pytest

from headwater.errors import SourceUnavailableError
from support.backend import Person, World, cheap, running
from support.postgres import Postgres
from support.proxy import proxied
from support.until import outside


async def test_alive_and_ready(world: World):
    assert (await world.anyone.get("/healthz")).json() == {"status": "ok"}
    answer = await world.anyone.get("/readyz")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert {name: check["status"] for name, check in answer.json()["checks"].items()} == {
        "database": "up",
        "event_log": "up",
    }


async def test_many_who_ask_at_once_are_answered_alike(world: World, caplog):
    """Two probes in one moment, or a stranger, would else take the server out of its balancer."""
    answers = await asyncio.gather(*(world.anyone.get("/readyz") for _ in range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert "cannot be used" not in caplog.text


async def status_of(world: World, name: str, status: str) -> httpx.Response:
    """The first answer in which this dependency has this status."""

    async def asked():
        answer = await world.anyone.get("/readyz")
        return answer if answer.json()["checks"][name] == {"status": status} else None

    return await outside(asked)


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_a_database_that_was_moved_away(world: World):
    """SQLite would go on with the file it has open, and all that is written would be lost."""
    path = world.backend.database.address.path
    aside = path.with_suffix(".aside")
    os.rename(path, aside)
    try:
        answer = await status_of(world, "database", "down")
        assert answer.status_code == 503
        assert (await world.anyone.get("/healthz")).status_code == 200
    finally:
        os.rename(aside, path)
    assert (await status_of(world, "database", "up")).status_code == 200


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_a_disk_that_is_full(world: World):
    """What reads go on with, writes do not. A limit for files stands for the disk here."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, before[1]))
    try:
        assert (await status_of(world, "database", "down")).status_code == 503
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (await status_of(world, "database", "up")).status_code == 200
    folder = world.backend.database.address.path.parent
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


async def test_strangers_learn_nothing_of_the_inside(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What is wrong is in the log, once."""

    async def away(topic):
        raise SourceUnavailableError("event log", "gone fishing at 10.0.0.7")

    monkeypatch.setattr(world.backend.log, "bounds", away)
    caplog.set_level(logging.WARNING, "headwater.backend")
    for _ in range(3):
        answer = await status_of(world, "event_log", "down")
        assert "fishing" not in answer.text
        assert answer.json()["checks"]["database"] == {"status": "up"}
    assert caplog.text.count("gone fishing") == 1


async def test_a_server_that_hangs_is_down_within_two_seconds(migrated_server: Postgres):
    """Its driver would wait for the server to confirm that it gave up."""
    name = migrated_server.database(template="migrated")
    async with proxied(str(migrated_server.folder / ".s.PGSQL.5432")) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
        async with running(cheap(Path(), database=url)) as world:
            assert (await world.anyone.get("/readyz")).status_code == 200
            proxy.hold()
            try:
                await status_of(world, "database", "down")
                loop = asyncio.get_running_loop()
                for _ in range(3):
                    began = loop.time()
                    answers = await asyncio.gather(
                        *(world.anyone.get("/readyz") for _ in range(10))
                    )
                    assert {answer.status_code for answer in answers} == {503}
                    assert loop.time() - began < 4
            finally:
                proxy.release()
            await status_of(world, "database", "up")


async def test_who_is_ending_is_not_ready(world: World):
    await world.app.state.live.drain(spread=0.01)
    answer = await world.anyone.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["server"] == {"status": "down"}


async def test_measures(world: World, ann: Person):
    await ann.client.get("/api/logs?level=info")
    await ann.client.get("/api/satellites/some-id/metrics")
    await world.anyone.get("/api/logs")
    await world.anyone.request("BREW", "/coffee")
    text = (await world.anyone.get("/metrics")).text
    for line in (
        'headwater_requests_total{method="GET",route="/api/logs",status="200"}',
        'headwater_requests_total{method="GET",route="/api/logs",status="401"}',
        'route="/api/satellites/{satellite_id}/metrics",status="404"',
        'headwater_requests_total{method="other",route="none",status="404"}',
        "headwater_streams_open 0.0",
        "headwater_database_statements_total",
        "headwater_sign_in_failures_total",
        "process_resident_memory_bytes",
    ):
        assert line in text, line
    assert "some-id" not in text
    assert "coffee" not in text


async def test_every_counter_of_delivery_is_shown(world: World):
    """One that is added later must not be forgotten here."""
    from dataclasses import fields

    from headwater.delivery._open_streams import Counters

    text = (await world.anyone.get("/metrics")).text
    for field in fields(Counters):
        assert f"headwater_streams_{field.name}" in text
