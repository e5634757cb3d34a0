"""What is too old goes, what is not stays, and one failure keeps nothing else from going."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, insert, select, update

from headwater.backend.cleanup import Cleanup
from headwater.backend.models import (
    AccessChange,
    Base,
    ClientActivity,
    LogEntry,
    Notification,
    Session,
)
from headwater.backend.times import utc_now
from headwater.errors import SourceUnavailableError
from support.backend import Person, World


async def count(world: World, model: type[Base]) -> int:
    async with world.backend.database.read() as session:
        return await session.scalar(select(func.count()).select_from(model)) or 0


@pytest.fixture
async def aged(world: World, admin: Person, ann: Person) -> World:
    """One old and one new of everything."""
    team = await world.team(ann)
    agent = await world.satellite(admin, team)
    async with world.backend.database.write() as session:
        for days in (40, 0):
            at = utc_now() - timedelta(days=days)
            row = {"user_id": ann.id, "created_at": at}
            await session.execute(insert(LogEntry).values(message="m", **row))
            await session.execute(insert(Notification).values(title="t", **row))
            await session.execute(insert(AccessChange).values(**row))
            await session.execute(
                insert(ClientActivity).values(
                    user_id=ann.id,
                    team_id=team,
                    satellite_id=agent.id,
                    client_name=f"c{days}",
                    last_activity_at=at,
                )
            )
    return world


async def test_what_is_too_old_goes(aged: World):
    changes = await count(aged, AccessChange)
    await Cleanup(aged.backend, grace=0.1).once()
    for model in (LogEntry, Notification, ClientActivity):
        assert await count(aged, model) == 1
    assert await count(aged, AccessChange) == changes - 1


async def test_sessions_that_are_over_go(world: World, ann: Person, bob: Person):
    async with world.backend.database.write() as session:
        await session.execute(
            update(Session)
            .where(Session.user_id == ann.id)
            .values(expires_at=utc_now() - timedelta(seconds=1))
        )
    await Cleanup(world.backend, grace=0.1).once()
    assert await count(world, Session) == 1
    assert (await bob.client.get("/api/users/me")).status_code == 200


async def test_metrics_go_by_their_own_age(world: World, monkeypatch: pytest.MonkeyPatch):
    asked: list[object] = []

    async def trim(topic=None, *, max_age=None, max_count=None, max_bytes=None):
        asked.append(max_age)
        return 0

    monkeypatch.setattr(world.backend.log, "trim", trim)
    await Cleanup(world.backend, grace=0.1).once()
    assert asked == [timedelta(days=7)]


async def test_a_clock_that_jumps_forward_removes_nothing_at_once(aged: World, caplog):
    """It may be wrong, and what is removed cannot be brought back."""
    wall, passed = utc_now(), 0.0
    cleanup = Cleanup(aged.backend, grace=0.1, clock=lambda: wall, passed=lambda: passed)
    wall, passed = wall + timedelta(days=400), 300.0
    await cleanup.once()
    wall, passed = wall + timedelta(hours=23), passed + 23 * 3600
    await cleanup.once()
    assert await count(aged, LogEntry) == 2
    assert caplog.text.count("the clock went forward by 399 days, 23:55:00 at once") == 1
    # It stayed so for a day, so it is right.
    wall, passed = wall + timedelta(hours=2), passed + 2 * 3600
    await cleanup.once()
    assert await count(aged, LogEntry) == 1


async def test_a_clock_that_is_set_right_again_keeps_nothing_from_going(aged: World):
    wall, passed = utc_now(), 0.0
    cleanup = Cleanup(aged.backend, grace=0.1, clock=lambda: wall, passed=lambda: passed)
    right, wall, passed = wall, wall + timedelta(days=400), 300.0
    await cleanup.once()
    wall, passed = right + timedelta(seconds=600), 600.0
    await cleanup.once()
    assert await count(aged, LogEntry) == 1


@pytest.mark.parametrize("error", [SourceUnavailableError("log", "away"), ValueError("broken")])
async def test_one_failure_keeps_nothing_else(aged: World, monkeypatch, caplog, error):
    async def fail(**_):
        raise error

    monkeypatch.setattr(aged.backend.tables.logs, "trim", fail)
    await Cleanup(aged.backend, grace=0.1).once()
    assert await count(aged, LogEntry) == 2
    assert await count(aged, Notification) == 1
    assert "old log entries could not be removed" in caplog.text
