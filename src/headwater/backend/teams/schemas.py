"""Teams as JSON."""

from __future__ import annotations

from datetime import datetime

from headwater.backend.roles import TeamRole
from headwater.backend.schemas import Body, Name, Result

__all__ = ["MemberInfo", "MemberPut", "TeamCreate", "TeamInfo", "TeamList"]


class TeamCreate(Body):
    name: Name


class TeamInfo(Result):
    id: str
    name: str
    created_at: datetime


class TeamList(Result):
    teams: list[TeamInfo]
    has_more: bool


class MemberPut(Body):
    role: TeamRole


class MemberInfo(Result):
    team_id: str
    user_id: str
    role: str
