"""The backend's own joins, as live queries: their tables are tracked with the links they need."""

from __future__ import annotations

from sqlalchemy import ColumnElement, ScalarSelect, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.backend.models import ClientActivity, Membership, Satellite, Team, User
from headwater.sql import LiveQuery


def clients_of(engine: AsyncEngine) -> LiveQuery:
    """The MCP clients of a team, with the names of their users and satellites."""
    return LiveQuery(
        engine,
        select(
            ClientActivity.id,
            ClientActivity.team_id,
            User.email,
            Satellite.name.label("satellite_name"),
            ClientActivity.client_name,
            ClientActivity.requests,
            ClientActivity.tool_calls,
            ClientActivity.last_activity_at,
        )
        .join(User, User.id == ClientActivity.user_id)
        .join(Satellite, Satellite.id == ClientActivity.satellite_id),
        key=["id"],
        where=["team_id"],
    )


def teams_of(engine: AsyncEngine) -> LiveQuery:
    """Teams with the numbers of their members, satellites and clients."""
    return LiveQuery(
        engine,
        select(
            Team.id,
            Team.name,
            _number(Membership.team_id == Team.id).label("members"),
            _number(Satellite.team_id == Team.id).label("satellites"),
            _number(ClientActivity.team_id == Team.id).label("clients"),
        ),
        key=["id"],
        where=["id"],
    )


def satellites_of(engine: AsyncEngine) -> LiveQuery:
    """Satellites with the number of their clients."""
    return LiveQuery(
        engine,
        select(
            Satellite.id,
            Satellite.name,
            Satellite.team_id,
            _number(ClientActivity.satellite_id == Satellite.id).label("clients"),
        ),
        key=["id"],
        where=["team_id"],
    )


def _number(condition: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).where(condition).scalar_subquery()
