"""What is in the database that ``headwater serve`` is measured with."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

DATA = 200
_EMPTY = len(
    '{"id":"0123456789abcdef0123456789abcdef","level":"info","source":"","message":"",'
    '"fields":{},"created_at":"2026-01-01T00:00:00.000000Z"}'
)


_EMPTY_NOTICE = len(
    '{"id":"0123456789abcdef0123456789abcdef","user_id":null,"team_id":"t0","level":"info",'
    '"title":"","body":"","created_at":"2026-01-01T00:00:00.000000Z"}'
)
TEAM = "t0"


def title(seq: int) -> str:
    """The title of a team's notification that is 200 bytes as JSON."""
    return f"{seq} ".ljust(DATA - _EMPTY_NOTICE, "x")


def message(seq: int) -> str:
    """The text of a log entry that is 200 bytes as JSON."""
    return f"{seq} ".ljust(DATA - _EMPTY, "x")


def session(group: int | str) -> str:
    """The session cookie of a group's user."""
    return f"bench-session-{group}"


def api_key(group: int | str) -> str:
    return f"hw_bench-{group}"


def satellite_key(group: int | str) -> str:
    return f"hws_bench-{group}"


def fill(path: Path, groups: int) -> None:
    """A user with a session and an API key for each group, and a satellite; a team of all users."""
    database = sqlite3.connect(path)
    with database:
        database.executemany(
            "INSERT INTO users (id, email, password_hash) VALUES (?, ?, '!')",
            ((f"u{n}", f"u{n}@example.org") for n in range(groups)),
        )
        database.executemany(
            "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES (?, ?, ?)",
            ((_hash(session(n)), f"u{n}", "2999-01-01 00:00:00.000000") for n in range(groups)),
        )
        database.executemany(
            "INSERT INTO api_keys (user_id, name, key_hash) VALUES (?, 'bench', ?)",
            ((f"u{n}", _hash(api_key(n))) for n in range(groups)),
        )
        database.executemany(
            "INSERT INTO satellites (id, name, key_hash) VALUES (?, 'bench', ?)",
            ((f"s{n}", _hash(satellite_key(n))) for n in range(groups)),
        )
        database.execute("INSERT INTO teams (id, name) VALUES (?, 'bench')", (TEAM,))
        database.executemany(
            "INSERT INTO team_members (team_id, user_id) VALUES (?, ?)",
            ((TEAM, f"u{n}") for n in range(groups)),
        )
    database.close()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
