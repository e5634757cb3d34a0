"""The backend's own joins, as live queries: their tables are tracked with the links they need."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.backend.models import ClientActivity, Membership, Satellite, Team, User
from headwater.sql import LiveQuery

__all__ = ["clients_of", "satellites_of", "teams_of"]


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
    members = select(func.count()).where(Membership.team_id == Team.id)
    satellites = select(func.count()).where(Satellite.team_id == Team.id)
    clients = select(func.count()).where(ClientActivity.team_id == Team.id)
    return LiveQuery(
        engine,
        select(
            Team.id,
            Team.name,
            members.scalar_subquery().label("members"),
            satellites.scalar_subquery().label("satellites"),
            clients.scalar_subquery().label("clients"),
        ),
        key=["id"],
        where=["id"],
    )


def satellites_of(engine: AsyncEngine) -> LiveQuery:
    """Satellites with the number of their clients."""
    clients = select(func.count()).where(ClientActivity.satellite_id == Satellite.id)
    return LiveQuery(
        engine,
        select(
            Satellite.id,
            Satellite.name,
            Satellite.team_id,
            clients.scalar_subquery().label("clients"),
        ),
        key=["id"],
        where=["team_id"],
    )
