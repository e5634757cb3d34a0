"""Users, their roles, and their API keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.access import tell_access_change
from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.principal import Principal
from headwater.backend.auth.tokens import API_KEY, hash_token, new_token
from headwater.backend.database import Database
from headwater.backend.listing import page_of
from headwater.backend.models import (
    ApiKey,
    ClientActivity,
    LogEntry,
    Membership,
    Notification,
    Session,
    Team,
    User,
)
from headwater.backend.problems import conflict, invalid, not_found
from headwater.backend.times import utc_now

__all__ = ["Users"]

# A session has no id but the hash that it is found by.
_SESSIONS = SimpleNamespace(created_at=Session.created_at, id=Session.token_hash)
_INFO = (User.id, User.email, User.role, User.disabled, User.created_at)


class Users:
    """What can be done with users.

    Arguments:
        min_length: characters that a new password needs at least.
    """

    def __init__(self, database: Database, passwords: Passwords, min_length: int) -> None:
        self._database = database
        self._passwords = passwords
        self._min_length = min_length
        self._emails = select(User.id, User.email).where(database.among(User.id))

    async def page(self, limit: int, after: str | None) -> tuple[Sequence[Any], bool]:
        async with self._database.read() as session:
            return await page_of(session, select(*_INFO), User, limit, after)

    async def create(self, email: str, password: str, role: str) -> Any:
        """A new user. ``email`` is normal already. Raises 422 for a short password, 409."""
        if len(password) < self._min_length:
            raise invalid("password", f"at least {self._min_length} characters are needed")
        stored = await self._passwords.hash(password)
        user_id = uuid4().hex
        try:
            async with self._database.write() as session:
                await session.execute(
                    insert(User).values(id=user_id, email=email, password_hash=stored, role=role)
                )
                return await _info(session, user_id)
        except IntegrityError as error:
            raise conflict(f"There is a user {email!r} already.") from error

    async def change(self, user_id: str, role: str | None, disabled: bool | None) -> Any:
        """Change a user's role, or disable or enable them.

        Raises 404, and 409 when no enabled global_admin would be left. A disabled user is signed
        out everywhere. The API keys work again once the user is enabled.
        """
        async with self._database.write(alone=True) as session:
            before = await _info(session, user_id)
            if before is None:
                raise not_found("user", user_id)
            wanted: dict[str, Any] = {}
            if role is not None and role != before.role:
                wanted["role"] = role
            if disabled is not None and disabled != before.disabled:
                wanted["disabled"] = disabled
            if not wanted:
                return before
            if (
                before.role == "global_admin"
                and not before.disabled
                and ("role" in wanted or wanted.get("disabled"))
            ):
                await self._must_leave_an_admin(session, user_id)
            await session.execute(update(User).where(User.id == user_id).values(**wanted))
            if wanted.get("disabled"):
                await session.execute(delete(Session).where(Session.user_id == user_id))
            await tell_access_change(session, user_id)
            return await _info(session, user_id)

    async def remove(self, user_id: str) -> None:
        """Remove a user with all that is theirs; their streams end at once.

        Raises 404, and 409 when no enabled global_admin would be left. The rights go first: if it
        is interrupted, the user is disabled, and can be removed again.
        """
        async with self._database.write(alone=True) as session:
            before = await _info(session, user_id)
            if before is None:
                raise not_found("user", user_id)
            if before.role == "global_admin" and not before.disabled:
                await self._must_leave_an_admin(session, user_id)
            await session.execute(update(User).where(User.id == user_id).values(disabled=True))
            for owned in (Session, ApiKey, Membership):
                await session.execute(delete(owned).where(owned.user_id == user_id))
            await tell_access_change(session, user_id)
        for model in (LogEntry, Notification, ClientActivity):
            await self._database.delete_in_steps(model, model.user_id == user_id)
        async with self._database.write() as session:
            await session.execute(delete(User).where(User.id == user_id))

    async def _must_leave_an_admin(self, session: AsyncSession, user_id: str) -> None:
        others = await session.scalar(
            select(func.count())
            .select_from(User)
            .where(User.role == "global_admin", User.disabled.is_(False), User.id != user_id)
        )
        if not others:
            raise conflict("This is the last enabled global_admin; make another one first.")

    async def any(self) -> bool:
        """Whether any user exists."""
        async with self._database.read() as session:
            return await session.scalar(select(User.id).limit(1)) is not None

    async def emails(self, user_ids: Collection[str]) -> Mapping[str, str]:
        """The addresses of users, by their ids; those that are gone are left out."""
        rows = await self._database.look_up(self._emails, sorted(user_ids)) if user_ids else ()
        return {row[0]: row[1] for row in rows}

    async def sessions_of(
        self, user_id: str, limit: int, after: str | None
    ) -> tuple[Sequence[Any], bool]:
        """The sessions of a user that have not expired. Raises 404 for no user."""
        theirs = select(
            Session.token_hash.label("id"), Session.created_at, Session.expires_at
        ).where(Session.user_id == user_id, Session.expires_at > utc_now())
        async with self._database.read() as session:
            if await session.scalar(select(User.id).where(User.id == user_id)) is None:
                raise not_found("user", user_id)
            return await page_of(session, theirs, _SESSIONS, limit, after)

    async def end_session(self, user_id: str, session_id: str) -> None:
        """Sign a user out of one session; its streams end at once. Raises 404."""
        async with self._database.write() as session:
            gone = await session.scalar(
                delete(Session)
                .where(Session.token_hash == session_id, Session.user_id == user_id)
                .returning(Session.token_hash)
            )
            if gone is None:
                raise not_found("session", session_id)
            await tell_access_change(session, user_id)

    async def teams_of(
        self, user: Principal, limit: int, after: str | None
    ) -> tuple[Sequence[Any], bool]:
        mine = (
            select(Team.id, Team.name, Membership.role, Team.created_at)
            .join(Membership, Membership.team_id == Team.id)
            .where(Membership.user_id == user.id)
        )
        async with self._database.read() as session:
            return await page_of(session, mine, Team, limit, after)

    async def keys_of(
        self, user: Principal, limit: int, after: str | None
    ) -> tuple[Sequence[Any], bool]:
        mine = select(ApiKey.id, ApiKey.name, ApiKey.created_at).where(ApiKey.user_id == user.id)
        async with self._database.read() as session:
            return await page_of(session, mine, ApiKey, limit, after)

    async def add_key(self, user: Principal, name: str) -> tuple[str, str]:
        """A new key: its id and, this once, the key itself."""
        key_id, key = uuid4().hex, new_token(API_KEY)
        async with self._database.write() as session:
            await session.execute(
                insert(ApiKey).values(
                    id=key_id, user_id=user.id, name=name, key_hash=hash_token(key)
                )
            )
        return key_id, key

    async def delete_key(self, user: Principal, key_id: str) -> None:
        """Delete a key. Streams that were opened with it end at once. Raises 404."""
        async with self._database.write() as session:
            gone = await session.scalar(
                delete(ApiKey)
                .where(ApiKey.id == key_id, ApiKey.user_id == user.id)
                .returning(ApiKey.id)
            )
            if gone is None:
                raise not_found("API key", key_id)
            await tell_access_change(session, user.id)


async def _info(session: AsyncSession, user_id: str) -> Any:
    return (await session.execute(select(*_INFO).where(User.id == user_id))).first()
