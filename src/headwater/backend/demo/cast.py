"""The users, teams and satellites of the demo. These accounts exist nowhere else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from headwater.backend.auth.principal import Principal
from headwater.backend.listing import Paging
from headwater.backend.state import Backend

DEMO = ("demo@example.com", "demo")
ADMIN = ("admin@example.com", "admin")

_COLLEAGUES = ("mira@example.com", "jonas@example.com")
_TEAMS = ("Platform", "Data Science")
# Names and teams. The last one has no team, so every user sees it.
_SATELLITES = (("frankfurt-1", "Platform"), ("virginia-2", "Data Science"), ("singapore-3", None))

# MCP clients by name, with their user agents.
CLIENTS: Mapping[str, str] = {
    "Claude Desktop": "claude-desktop/1.4.2 (macOS 15.6; arm64)",
    "Cursor": "Cursor/2.1.0 (Windows NT 10.0)",
    "VS Code": "vscode/1.106.1 (linux; x64) copilot-chat/0.33",
    "Windsurf": "Windsurf/1.12.9 (macOS 15.6; arm64)",
    "Zed": "Zed/0.214.3 (linux; x64)",
    "Goose": "goose/1.14.0 (macOS 14.7; arm64)",
    "Claude Code": "claude-code/2.0.44 (linux; x64)",
}


@dataclass(frozen=True, slots=True)
class Cast:
    """Ids by name.

    Attributes:
        users: by e-mail address.
        teams: by name.
        satellites: by name.
        works_for: the teams that each satellite reports for.
    """

    users: Mapping[str, str]
    teams: Mapping[str, str]
    satellites: Mapping[str, str]
    works_for: Mapping[str, tuple[str, ...]]

    @property
    def viewers(self) -> tuple[str, str]:
        """The ids of the two users that can sign in."""
        return self.users[DEMO[0]], self.users[ADMIN[0]]


async def find(backend: Backend) -> Cast:
    """Find what an earlier start of this demo has made."""
    admin = Principal("user", "", "session", "", role="global_admin")
    users = {row.email: row.id for row in (await backend.users.page(Paging()))[0]}
    teams = {row.name: row.id for row in (await backend.teams.page(Paging()))[0]}
    satellites = {row.name: row.id for row in (await backend.satellites.page(admin, Paging()))[0]}
    return Cast(users, teams, satellites, _works_for(satellites, teams))


async def assemble(backend: Backend) -> Cast:
    """Create all of them, as an administrator would."""
    users: dict[str, str] = {}
    for (email, password), role in ((DEMO, "global_user"), (ADMIN, "global_admin")):
        users[email] = (await backend.users.create(email, password, role)).id
    for email in _COLLEAGUES:
        created = await backend.users.create(email, secrets.token_urlsafe(16), "global_user")
        users[email] = created.id
    teams = {name: (await backend.teams.create(name)).id for name in _TEAMS}
    for team_id in teams.values():
        for email, user_id in users.items():
            role = "team_admin" if email == ADMIN[0] else "team_user"
            await backend.teams.put_member(team_id, user_id, role)
    admin = Principal("user", users[ADMIN[0]], "session", "", role="global_admin")
    satellites: dict[str, str] = {}
    for name, team in _SATELLITES:
        owner = None if team is None else teams[team]
        satellites[name], _ = await backend.satellites.register(admin, name, owner)
    return Cast(users, teams, satellites, _works_for(satellites, teams))


def _works_for(
    satellites: Mapping[str, str], teams: Mapping[str, str]
) -> Mapping[str, tuple[str, ...]]:
    return {
        satellites[name]: tuple(teams[each] for each in _TEAMS) if team is None else (teams[team],)
        for name, team in _SATELLITES
    }
