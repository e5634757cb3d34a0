"""Teams as JSON."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from headwater.backend.roles import TeamRole
from headwater.backend.schemas import Body, Name, Result


class TeamCreate(Body):
    name: Name


class TeamInfo(Result):
    id: str
    name: str
    created_at: datetime


class TeamOverview(Result):
    """A team with its counts. ``id`` is its key in the feed."""

    id: str
    name: str
    members: int
    satellites: int
    clients: int = Field(description="MCP clients that ever worked for it.")


class TeamClient(Result):
    """An MCP client that works for a team. ``id`` is its key in the feed."""

    id: str
    email: str = Field(description="Of its user.")
    satellite_name: str
    client_name: str
    requests: int
    tool_calls: int
    last_activity_at: datetime


class TeamList(Result):
    teams: list[TeamInfo]
    has_more: bool


class MemberPut(Body):
    role: TeamRole


class Member(Result):
    id: str = Field(description="The user's.")
    email: str
    role: str = Field(description="In the team.")


class MemberList(Result):
    members: list[Member]
    has_more: bool


class MemberInfo(Result):
    team_id: str
    user_id: str
    role: str
