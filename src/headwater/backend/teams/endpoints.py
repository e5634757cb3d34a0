"""``/api/teams``: teams and membership."""

from __future__ import annotations

from fastapi import APIRouter

from headwater.backend.auth.dependencies import (
    CurrentUser,
    requires,
    requires_in_team,
    signed_in,
    team_of_path,
)
from headwater.backend.listing import PageAsked
from headwater.backend.schemas import NO_CONTENT, PathId
from headwater.backend.state import BackendState
from headwater.backend.teams.schemas import (
    MemberInfo,
    MemberList,
    MemberPut,
    TeamClient,
    TeamCreate,
    TeamInfo,
    TeamList,
    TeamOverview,
)
from headwater.web.fastapi import GuardedRoute, LiveRouter, Source

router = APIRouter(prefix="/teams", tags=["teams"], route_class=GuardedRoute)


@router.get("", dependencies=[requires("teams.list")])
async def list_teams(backend: BackendState, paging: PageAsked) -> TeamList:
    """All teams, oldest first. The caller's are at ``/api/users/me/teams``."""
    rows, has_more = await backend.teams.page(paging)
    return TeamList(teams=rows, has_more=has_more)


@router.post("", status_code=201, dependencies=[requires("teams.create")])
async def create_team(body: TeamCreate, backend: BackendState) -> TeamInfo:
    """A new team, without members."""
    return TeamInfo.model_validate(await backend.teams.create(body.name))


@router.delete("/{team_id}", **NO_CONTENT, dependencies=[requires("teams.delete")])
async def remove_team(team_id: PathId, backend: BackendState) -> None:
    """Remove a team with its satellites and notifications. Its streams end at once."""
    await backend.teams.remove(team_id)


@router.get("/{team_id}/members", dependencies=[requires_in_team("team.members.edit")])
async def list_members(team_id: PathId, backend: BackendState, paging: PageAsked) -> MemberList:
    """The members of a team, for its administrators."""
    rows, has_more = await backend.teams.members(team_id, paging)
    return MemberList(members=rows, has_more=has_more)


@router.put("/{team_id}/members/{user_id}", dependencies=[requires_in_team("team.members.edit")])
async def put_member(
    team_id: PathId, user_id: PathId, body: MemberPut, backend: BackendState
) -> MemberInfo:
    """Add a user to a team, or change their role in it."""
    await backend.teams.put_member(team_id, user_id, body.role)
    return MemberInfo(team_id=team_id, user_id=user_id, role=body.role)


@router.delete(
    "/{team_id}/members/{user_id}",
    **NO_CONTENT,
    dependencies=[requires_in_team("team.members.edit")],
)
async def remove_member(team_id: PathId, user_id: PathId, backend: BackendState) -> None:
    """Remove a user from a team. Their streams of it end at once."""
    await backend.teams.remove_member(team_id, user_id)


def declare(live: LiveRouter) -> None:
    """The feeds."""

    @live.feed(
        "/teams/overview",
        item=TeamOverview,
        collection="teams",
        event="team",
        requires=signed_in,
        keyed=True,
        limit="all",
        tags=["teams"],
        summary="My teams at a glance",
    )
    async def team_overview(user: CurrentUser, backend: BackendState) -> Source:
        """Teams with the numbers of their members, satellites and clients."""
        teams = backend.tables.teams
        return teams.where() if user.may("teams.view_all") else teams.where(id=sorted(user.teams))

    @live.feed(
        "/teams/{team_id}/clients",
        item=TeamClient,
        collection="clients",
        event="client",
        requires=["activity.view", team_of_path],
        keyed=True,
        limit="all",
        tags=["teams"],
        summary="A team's MCP clients",
    )
    async def team_clients(team_id: str, backend: BackendState) -> Source:
        """The clients that work for a team, with the names of their users and satellites."""
        return backend.tables.clients.where(team_id=team_id)
