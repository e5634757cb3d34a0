"""``/api/users``: the caller, their teams and keys, and, for administrators, all users."""

from __future__ import annotations

from fastapi import APIRouter

from headwater.backend.auth.dependencies import CurrentUser, requires, signed_in
from headwater.backend.listing import PageAsked
from headwater.backend.schemas import NO_CONTENT, PathId
from headwater.backend.state import BackendState
from headwater.backend.users.schemas import (
    ApiKeyCreated,
    ApiKeyList,
    KeyCreate,
    Me,
    MyTeams,
    SessionList,
    UserCreate,
    UserInfo,
    UserList,
    UserUpdate,
)
from headwater.web.fastapi import GuardedRoute

router = APIRouter(
    prefix="/users", tags=["users"], route_class=GuardedRoute, dependencies=[signed_in]
)


@router.get("/me")
async def who_am_i(user: CurrentUser) -> Me:
    """The calling user."""
    return Me.of(user)


@router.get("/me/teams")
async def my_teams(user: CurrentUser, backend: BackendState, paging: PageAsked) -> MyTeams:
    """The caller's teams."""
    rows, has_more = await backend.users.teams_of(user, paging)
    return MyTeams(teams=rows, has_more=has_more)


@router.get("/me/api-keys")
async def my_api_keys(user: CurrentUser, backend: BackendState, paging: PageAsked) -> ApiKeyList:
    """The caller's API keys, without the secrets."""
    rows, has_more = await backend.users.keys_of(user, paging)
    return ApiKeyList(api_keys=rows, has_more=has_more)


@router.post("/me/api-keys", status_code=201)
async def create_api_key(
    body: KeyCreate, user: CurrentUser, backend: BackendState
) -> ApiKeyCreated:
    """A new API key. It is shown only in this answer."""
    key_id, key = await backend.users.add_key(user, body.name)
    return ApiKeyCreated(id=key_id, name=body.name, api_key=key)


@router.delete("/me/api-keys/{key_id}", **NO_CONTENT)
async def delete_api_key(key_id: PathId, user: CurrentUser, backend: BackendState) -> None:
    """Delete one of the caller's keys. Streams that were opened with it end at once."""
    await backend.users.delete_key(user, key_id)


@router.get("/me/sessions")
async def my_sessions(user: CurrentUser, backend: BackendState, paging: PageAsked) -> SessionList:
    """The caller's sessions."""
    rows, has_more = await backend.users.sessions_of(user.id, user, paging)
    return SessionList(sessions=rows, has_more=has_more)


@router.delete("/me/sessions/{session_id}", **NO_CONTENT)
async def end_my_session(session_id: PathId, user: CurrentUser, backend: BackendState) -> None:
    """End one of the caller's sessions. Its streams end at once."""
    await backend.users.end_session(user.id, session_id)


@router.get("", dependencies=[requires("users.list")])
async def list_users(backend: BackendState, paging: PageAsked) -> UserList:
    """All users, oldest first."""
    rows, has_more = await backend.users.page(paging)
    return UserList(users=rows, has_more=has_more)


@router.post("", status_code=201, dependencies=[requires("users.create")])
async def create_user(body: UserCreate, backend: BackendState) -> UserInfo:
    """A new user."""
    user = await backend.users.create(body.email, body.password, body.role)
    return UserInfo.model_validate(user)


@router.get("/{user_id}/sessions", dependencies=[requires("users.edit")])
async def list_sessions(
    user_id: PathId, user: CurrentUser, backend: BackendState, paging: PageAsked
) -> SessionList:
    """A user's sessions."""
    rows, has_more = await backend.users.sessions_of(user_id, user, paging)
    return SessionList(sessions=rows, has_more=has_more)


@router.delete(
    "/{user_id}/sessions/{session_id}", **NO_CONTENT, dependencies=[requires("users.edit")]
)
async def end_session(user_id: PathId, session_id: PathId, backend: BackendState) -> None:
    """End one session of a user. Its streams end at once."""
    await backend.users.end_session(user_id, session_id)


@router.delete("/{user_id}", **NO_CONTENT, dependencies=[requires("users.delete")])
async def remove_user(user_id: PathId, backend: BackendState) -> None:
    """Remove a user with their log, notifications, keys and activity. Their streams end at once."""
    await backend.users.remove(user_id)


@router.patch("/{user_id}", dependencies=[requires("users.edit")])
async def change_user(user_id: PathId, body: UserUpdate, backend: BackendState) -> UserInfo:
    """Change a user's role, or disable or enable them. Their open streams follow at once."""
    user = await backend.users.change(user_id, body.role, body.disabled)
    return UserInfo.model_validate(user)
