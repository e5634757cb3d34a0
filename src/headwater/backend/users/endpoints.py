"""``/api/users``: the caller, their teams and keys, and, for administrators, all users."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from headwater.backend.auth.dependencies import CurrentUser, requires, signed_in
from headwater.backend.auth.principal import Principal
from headwater.backend.schemas import After, Limit, PathId
from headwater.backend.state import backend_of
from headwater.backend.users.schemas import (
    ApiKeyCreated,
    ApiKeyInfo,
    ApiKeyList,
    KeyCreate,
    Me,
    MyTeam,
    MyTeams,
    SessionInfo,
    SessionList,
    UserCreate,
    UserInfo,
    UserList,
    UserUpdate,
)
from headwater.backend.users.service import Users
from headwater.web.fastapi import GuardedRoute

__all__ = ["router"]

router = APIRouter(
    prefix="/users", tags=["users"], route_class=GuardedRoute, dependencies=[signed_in]
)


async def _service(request: Request) -> Users:
    return backend_of(request).users


UserService = Annotated[Users, Depends(_service)]


@router.get("/me")
async def who_am_i(user: CurrentUser) -> Me:
    """The calling user."""
    return Me(id=user.id, email=user.email, role=user.role, permissions=sorted(user.permissions))


@router.get("/me/teams")
async def my_teams(
    user: CurrentUser, users: UserService, limit: Limit = 100, after: After = None
) -> MyTeams:
    """The caller's teams."""
    rows, has_more = await users.teams_of(user, limit, after)
    return MyTeams(teams=[MyTeam.model_validate(row) for row in rows], has_more=has_more)


@router.get("/me/api-keys")
async def my_api_keys(
    user: CurrentUser, users: UserService, limit: Limit = 100, after: After = None
) -> ApiKeyList:
    """The caller's API keys, without the secrets."""
    rows, has_more = await users.keys_of(user, limit, after)
    return ApiKeyList(api_keys=[ApiKeyInfo.model_validate(row) for row in rows], has_more=has_more)


@router.post("/me/api-keys", status_code=201)
async def create_api_key(body: KeyCreate, user: CurrentUser, users: UserService) -> ApiKeyCreated:
    """A new API key. It is shown only in this answer."""
    key_id, key = await users.add_key(user, body.name)
    return ApiKeyCreated(id=key_id, name=body.name, api_key=key)


@router.delete("/me/api-keys/{key_id}", status_code=204, response_class=Response)
async def delete_api_key(key_id: PathId, user: CurrentUser, users: UserService) -> None:
    """End a key of one's own. Streams that were opened with it end at once."""
    await users.delete_key(user, key_id)


@router.get("/me/sessions")
async def my_sessions(
    user: CurrentUser, users: UserService, limit: Limit = 100, after: After = None
) -> SessionList:
    """Where the caller is signed in."""
    return await _sessions(users, user, user.id, limit, after)


@router.delete("/me/sessions/{session_id}", status_code=204, response_class=Response)
async def end_my_session(session_id: PathId, user: CurrentUser, users: UserService) -> None:
    """Sign out of a session of one's own. Its streams end at once."""
    await users.end_session(user.id, session_id)


@router.get("", dependencies=[requires("users.list")])
async def list_users(users: UserService, limit: Limit = 100, after: After = None) -> UserList:
    """All users, oldest first."""
    rows, has_more = await users.page(limit, after)
    return UserList(users=[UserInfo.model_validate(row) for row in rows], has_more=has_more)


@router.post("", status_code=201, dependencies=[requires("users.create")])
async def create_user(body: UserCreate, users: UserService) -> UserInfo:
    """A new user."""
    row = await users.create(body.email, body.password, body.role)
    return UserInfo.model_validate(row)


@router.get("/{user_id}/sessions", dependencies=[requires("users.edit")])
async def list_sessions(
    user_id: PathId,
    user: CurrentUser,
    users: UserService,
    limit: Limit = 100,
    after: After = None,
) -> SessionList:
    """Where a user is signed in."""
    return await _sessions(users, user, user_id, limit, after)


@router.delete(
    "/{user_id}/sessions/{session_id}",
    status_code=204,
    response_class=Response,
    dependencies=[requires("users.edit")],
)
async def end_session(user_id: PathId, session_id: PathId, users: UserService) -> None:
    """Sign a user out of one session. Its streams end at once."""
    await users.end_session(user_id, session_id)


@router.delete(
    "/{user_id}",
    status_code=204,
    response_class=Response,
    dependencies=[requires("users.delete")],
)
async def remove_user(user_id: PathId, users: UserService) -> None:
    """Remove a user with their log, notifications, keys and activity. Their streams end at once."""
    await users.remove(user_id)


@router.patch("/{user_id}", dependencies=[requires("users.edit")])
async def change_user(user_id: PathId, body: UserUpdate, users: UserService) -> UserInfo:
    """Change a role, disable or enable. Open streams of that user notice at once."""
    row = await users.change(user_id, body.role, body.disabled)
    return UserInfo.model_validate(row)


async def _sessions(
    users: Users, caller: Principal, user_id: str, limit: int, after: str | None
) -> SessionList:
    rows, has_more = await users.sessions_of(user_id, limit, after)
    shown = [SessionInfo.model_validate(row) for row in rows]
    for each in shown:
        each.current = each.id == caller.credential
    return SessionList(sessions=shown, has_more=has_more)
