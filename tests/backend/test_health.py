"""Probes and measures."""

from __future__ import annotations

import os

import pytest

from headwater.backend import health
from headwater.errors import SourceUnavailableError
from support.backend import Person, World


async def test_alive_and_ready(world: World):
    assert (await world.anyone.get("/healthz")).json() == {"status": "ok"}
    answer = await world.anyone.get("/readyz")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert {name: check["status"] for name, check in answer.json()["checks"].items()} == {
        "database": "up",
        "event_log": "up",
    }


@pytest.mark.parametrize("standing", ["sqlite"], indirect=True)  # it is about the file
async def test_a_database_that_was_moved_away(world: World):
    """SQLite would go on with the file it has open, and all that is written would be lost."""
    path = world.backend.database.address.path
    aside = path.with_suffix(".aside")
    os.rename(path, aside)
    try:
        answer = await world.anyone.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["database"]["status"] == "down"
        assert (await world.anyone.get("/healthz")).status_code == 200
    finally:
        os.rename(aside, path)
    assert (await world.anyone.get("/readyz")).status_code == 200


async def test_an_event_log_that_is_away_or_slow(world: World, monkeypatch: pytest.MonkeyPatch):
    import asyncio

    async def away(topic):
        raise SourceUnavailableError("event log", "gone fishing")

    monkeypatch.setattr(world.backend.log, "bounds", away)
    checks = (await world.anyone.get("/readyz")).json()["checks"]
    assert checks["event_log"] == {"status": "down", "detail": "gone fishing"}
    assert checks["database"]["status"] == "up"

    async def slow(topic):
        await asyncio.Event().wait()

    monkeypatch.setattr(world.backend.log, "bounds", slow)
    monkeypatch.setattr(health, "PATIENCE", 0.01)
    checks = (await world.anyone.get("/readyz")).json()["checks"]
    assert "no answer" in checks["event_log"]["detail"]


async def test_who_is_ending_is_not_ready(world: World):
    await world.app.state.live.drain(spread=0.01)
    answer = await world.anyone.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["server"]["detail"] == "shutting down"


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

    from headwater.delivery.open_streams import Counters

    text = (await world.anyone.get("/metrics")).text
    for field in fields(Counters):
        assert f"headwater_streams_{field.name}" in text
