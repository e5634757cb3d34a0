"""Users and API keys as JSON."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

from headwater.backend.auth.principal import Principal
from headwater.backend.roles import GlobalRole
from headwater.backend.schemas import Body, Email, Name, Result

# argon2 takes any length. The bound limits the work for one request.
Password = Annotated[str, StringConstraints(max_length=1024)]


class UserInfo(Result):
    id: str
    email: str
    role: str
    disabled: bool
    created_at: datetime


class UserList(Result):
    users: list[UserInfo]
    has_more: bool


class Me(Result):
    id: str
    email: str
    role: str
    permissions: list[str] = Field(description="What you may do everywhere, sorted.")

    @classmethod
    def of(cls, user: Principal) -> Me:
        return cls(
            id=user.id, email=user.email, role=user.role, permissions=sorted(user.permissions)
        )


class MyTeam(Result):
    id: str
    name: str
    role: str = Field(description="Your role in it.")
    created_at: datetime


class MyTeams(Result):
    teams: list[MyTeam]
    has_more: bool


class UserCreate(Body):
    email: Email
    password: Password
    role: GlobalRole = "global_user"


class UserUpdate(Body):
    role: GlobalRole | None = None
    disabled: bool | None = None


class KeyCreate(Body):
    name: Name


class ApiKeyInfo(Result):
    id: str
    name: str
    created_at: datetime


class ApiKeyList(Result):
    api_keys: list[ApiKeyInfo]
    has_more: bool


class SessionInfo(Result):
    id: str
    created_at: datetime
    expires_at: datetime
    current: bool = Field(False, description="Whether this request came with it.")


class SessionList(Result):
    sessions: list[SessionInfo]
    has_more: bool


class ApiKeyCreated(Result):
    id: str
    name: str
    api_key: str = Field(description="Shown this once; only its hash is stored.")
