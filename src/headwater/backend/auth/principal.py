"""The caller, and its permissions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from headwater.backend.roles import GLOBAL_ROLES, SATELLITE_PERMISSIONS, TEAM_ROLES

_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Principal:
    """A user or a satellite, as of the moment its credential was looked up.

    Attributes:
        kind: what it is.
        id: the user's or the satellite's.
        via: how it authenticated. Only a session's requests can be forged by another page.
        credential: the stored hash of the token or key it came with.
        email: a user's address, else empty.
        role: a user's global role, else empty.
        teams: a user's team roles by team.
        expires_at: when a session, or a satellite's former key, ends; None for other keys.
    """

    kind: Literal["user", "satellite"]
    id: str
    via: Literal["session", "api_key", "satellite_key"]
    credential: str = field(repr=False)
    email: str = ""
    role: str = ""
    teams: Mapping[str, str] = field(default_factory=dict)
    expires_at: datetime | None = None

    @property
    def subject(self) -> str:
        """Its name among the callers of requests."""
        return f"{self.kind}:{self.id}"

    @property
    def permissions(self) -> frozenset[str]:
        """Its permissions everywhere."""
        if self.kind == "satellite":
            return SATELLITE_PERMISSIONS
        return GLOBAL_ROLES.get(self.role, _NONE)

    def may(self, permission: str) -> bool:
        return permission in self.permissions

    def may_in(self, permission: str, team_id: str | None) -> bool:
        """Whether it has a permission in this team (None: for what is of no team)."""
        role = self.teams.get(team_id or "", "")
        return self.may(permission) or permission in TEAM_ROLES.get(role, _NONE)

    def may_somewhere(self, permission: str) -> bool:
        """Whether it has a permission everywhere, or in one team at least."""
        return self.may(permission) or any(
            permission in TEAM_ROLES.get(role, _NONE) for role in self.teams.values()
        )

    def knows_team(self, team_id: str) -> bool:
        """Whether it may know that this team exists."""
        return team_id in self.teams or self.may("teams.view_all")

    def knows_satellite_of(self, team_id: str | None) -> bool:
        """Whether it may know of a satellite of this team (None: of no team)."""
        return team_id is None or self.knows_team(team_id)
