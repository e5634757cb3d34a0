"""The history of the demo: items from before its start."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import insert

from headwater.backend.demo.cast import CLIENTS, Cast
from headwater.backend.demo.lines import line
from headwater.backend.demo.notices import notice
from headwater.backend.demo.walk import Walk
from headwater.backend.models import ClientActivity, LogEntry, Notification
from headwater.backend.state import Backend
from headwater.backend.times import utc_now

_LINES = 300
_NOTICES = 40
_METRICS = 300
# Minutes since these clients were last active. With the default window of 30 minutes the first
# leave soon after the start.
_IDLE = (29.2, 28.0, 26.0, 22.0, 12.0)


async def write_history(backend: Backend, cast: Cast, walks: Mapping[str, Walk]) -> None:
    """Write a few hundred items of each feed, up to now."""
    draw = random.Random(7)
    now = utc_now()
    async with backend.database.write() as session:
        await session.execute(insert(LogEntry), _log_entries(draw, cast, now))
        await session.execute(insert(Notification), _notifications(draw, cast, now))
        await session.execute(insert(ClientActivity), _activity(draw, cast, now))
    for satellite_id, walk in walks.items():
        times = [now - timedelta(seconds=2 * back) for back in range(_METRICS, 0, -1)]
        await backend.satellites.report(satellite_id, [walk.step(at) for at in times])


def _log_entries(draw: random.Random, cast: Cast, now: datetime) -> list[dict[str, Any]]:
    return [
        {
            "id": uuid4().hex,
            "user_id": user_id,
            "created_at": now - timedelta(seconds=seconds),
            **line(draw).model_dump(),
        }
        for user_id in cast.viewers
        for seconds in sorted((draw.uniform(1, 3600) for _ in range(_LINES)), reverse=True)
    ]


def _notifications(draw: random.Random, cast: Cast, now: datetime) -> list[dict[str, Any]]:
    ago = sorted((draw.uniform(0.5, 60 * 20) for _ in range(_NOTICES)), reverse=True)
    return [
        {
            "id": uuid4().hex,
            "created_at": now - timedelta(minutes=minutes),
            **notice(draw, cast).model_dump(),
        }
        for minutes in ago
    ]


def _activity(draw: random.Random, cast: Cast, now: datetime) -> list[dict[str, Any]]:
    """Clients that have stopped. The running demo reports the active ones."""
    names = {satellite_id: name for name, satellite_id in cast.satellites.items()}
    rows = []
    for user_id in cast.viewers:
        for satellite_id, teams in cast.works_for.items():
            for team_id in teams:
                chosen = draw.sample(sorted(CLIENTS), 2)
                for client, idle in zip(chosen, draw.sample(_IDLE, 2), strict=True):
                    requests = draw.randint(40, 900)
                    last = now - timedelta(minutes=idle)
                    rows.append(
                        {
                            "id": uuid4().hex,
                            "user_id": user_id,
                            "team_id": team_id,
                            "satellite_id": satellite_id,
                            "satellite_name": names[satellite_id],
                            "client_name": client,
                            "user_agent": CLIENTS[client],
                            "requests": requests,
                            "tool_calls": requests // draw.randint(2, 5),
                            "last_activity_at": last,
                            "created_at": last - timedelta(minutes=draw.uniform(5, 200)),
                        }
                    )
    return rows
