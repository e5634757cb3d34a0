"""The one registry of roles: each is a set of permission strings. An unknown role has none.

A global role is valid everywhere, a team role only in its team. With ``teams.view_all`` a user
sees every team and team satellite like a member. Without it, the teams of others
do not exist for that user (404).

Three permissions are in team roles too, and are then valid in that team only. With
``notifications.create`` a user may notify the team, and always themselves. With
``satellites.manage`` a user may register and remove its satellites, and renew their keys. With
``team.members.edit`` a user may add and remove its members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

GlobalRole = Literal["global_admin", "global_user"]
TeamRole = Literal["team_admin", "team_user"]

_USER = frozenset(
    {
        "activity.view",
        "logs.create",
        "logs.view",
        "metrics.view",
        "notifications.read",
        "satellites.view",
    }
)

GLOBAL_ROLES: Mapping[str, frozenset[str]] = {
    "global_user": _USER,
    "global_admin": _USER
    | {
        "notifications.create",
        "satellites.manage",
        "streams.close",
        "streams.list",
        "team.members.edit",
        "teams.create",
        "teams.delete",
        "teams.list",
        "teams.view_all",
        "users.create",
        "users.delete",
        "users.edit",
        "users.list",
    },
}

TEAM_ROLES: Mapping[str, frozenset[str]] = {
    "team_user": frozenset(),
    "team_admin": frozenset({"notifications.create", "satellites.manage", "team.members.edit"}),
}

# With its key a satellite may report about itself.
SATELLITE_PERMISSIONS = frozenset({"satellite.report"})
