"""Credentials in the database: found by an index, many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import Select, bindparam, null, select, union_all

from headwater.backend.auth.loader import Loader
from headwater.backend.auth.principal import Principal
from headwater.backend.auth.tokens import API_KEY, SATELLITE_KEY, hash_token
from headwater.backend.database import Database
from headwater.backend.models import (
    ApiKey,
    Membership,
    RetiredSatelliteKey,
    Satellite,
    Session,
    User,
)
from headwater.backend.times import utc_now


class Credentials:
    """Finds the caller for a credential of a request, in one statement.

    The statement brings the user's teams too, so that no later decision asks the database again.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._of_sessions = (
            _with_user(Session.token_hash, Session.expires_at)
            .where(database.among(Session.token_hash))
            .where(Session.expires_at > bindparam("now", type_=Session.expires_at.type))
        )
        self._of_keys = _with_user(ApiKey.key_hash, null()).where(database.among(ApiKey.key_hash))
        former = RetiredSatelliteKey
        keys = union_all(
            select(
                Satellite.key_hash, Satellite.id, null().cast(former.expires_at.type).label("until")
            ).where(database.among(Satellite.key_hash)),
            select(former.key_hash, former.satellite_id, former.expires_at).where(
                database.among(former.key_hash),
                former.expires_at > bindparam("now", type_=former.expires_at.type),
            ),
        ).subquery()
        self._of_satellites = select(keys.c.key_hash, keys.c.id, keys.c.until)
        self._sessions = Loader(self._find_sessions)
        self._api_keys = Loader(self._find_api_keys)
        self._satellites = Loader(self._find_satellites)

    async def of_session(self, token: str) -> Principal | None:
        """The user of a session; None when it has expired, was ended or its user is disabled."""
        return await self._sessions.load(hash_token(token))

    async def of_key(self, key: str) -> Principal | None:
        """The user or satellite of an API key."""
        if key.startswith(SATELLITE_KEY):
            return await self._satellites.load(hash_token(key))
        if key.startswith(API_KEY):
            return await self._api_keys.load(hash_token(key))
        return None

    async def _find_sessions(self, hashes: Sequence[str]) -> Mapping[str, Principal]:
        rows = await self._database.look_up(self._of_sessions, hashes, now=utc_now())
        return _users(rows, "session")

    async def _find_api_keys(self, hashes: Sequence[str]) -> Mapping[str, Principal]:
        return _users(await self._database.look_up(self._of_keys, hashes), "api_key")

    async def _find_satellites(self, hashes: Sequence[str]) -> Mapping[str, Principal]:
        rows = await self._database.look_up(self._of_satellites, hashes, now=utc_now())
        return {
            key_hash: Principal(
                "satellite", satellite_id, "satellite_key", key_hash, expires_at=until
            )
            for key_hash, satellite_id, until in rows
        }


def _with_user(credential: Any, expires_at: Any) -> Select[Any]:
    user = (User.id, User.email, User.role)
    return (
        select(credential, *user, expires_at, Membership.team_id, Membership.role)
        .select_from(credential.class_)
        .join(User, User.id == credential.class_.user_id)
        .outerjoin(Membership, Membership.user_id == User.id)
        .where(User.disabled.is_(False))
    )


def _users(
    rows: Sequence[Sequence[Any]], via: Literal["session", "api_key"]
) -> Mapping[str, Principal]:
    """The callers of some rows: there is one for each team of a user."""
    found: dict[str, Principal] = {}
    teams: dict[str, dict[str, str]] = {}
    for credential, user_id, email, role, expires_at, team_id, team_role in rows:
        belongs = teams.setdefault(credential, {})
        if credential not in found:
            found[credential] = Principal(
                "user", user_id, via, credential, email, role, belongs, expires_at
            )
        if team_id is not None:
            belongs[team_id] = team_role
    return found
