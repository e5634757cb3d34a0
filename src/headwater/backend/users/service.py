"""Users, their roles, and their API keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.access import record_access_change
from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.principal import Principal
from headwater.backend.auth.tokens import API_KEY, hash_token, new_token
from headwater.backend.database import Database
from headwater.backend.listing import Paging, page_of
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
from headwater.backend.problems import invalid, not_found
from headwater.backend.settings import Settings
from headwater.backend.times import utc_now
from headwater.web.problems import Problem


class Users:
    """What can be done with users.

    Arguments:
        settings: the least length of a password, and the most keys of a user.
    """

    def __init__(self, database: Database, passwords: Passwords, settings: Settings) -> None:
        self._database = database
        self._passwords = passwords
        self._min_length = settings.password_min_length
        self._max_keys = settings.max_credentials
        self._emails = select(User.id, User.email).where(database.among(User.id))

    async def page(self, paging: Paging) -> tuple[list[Any], bool]:
        users = select(User.id, User.email, User.role, User.disabled, User.created_at)
        return await page_of(self._database, users, paging)

    async def create(self, email: str, password: str, role: str) -> User:
        """Add a user. ``email`` is normalised. Raises 422 for a short password, and 409."""
        if len(password) < self._min_length:
            raise invalid("password", f"use at least {self._min_length} characters")
        stored = await self._passwords.hash(password)
        user = User(id=uuid4().hex, email=email, password_hash=stored, role=role)
        try:
            async with self._database.write() as session:
                session.add(user)
        except IntegrityError as error:
            raise Problem(409, f"There is a user {email!r} already.") from error
        return user

    async def change(self, user_id: str, role: str | None, disabled: bool | None) -> User:
        """Change a user's role, or disable or enable them.

        Raises 404, and 409 when no enabled global_admin would be left. A disabled user is signed
        out everywhere. The API keys work again once the user is enabled.
        """
        async with self._database.write(alone=True) as session:
            user = await _existing(session, user_id, lock=True)
            was_admin = _is_admin(user)
            if role is not None:
                user.role = role
            if disabled is not None:
                user.disabled = disabled
            if session.is_modified(user):
                if was_admin:
                    await _must_leave_an_admin(session)
                if user.disabled:
                    await session.execute(delete(Session).where(Session.user_id == user_id))
                await record_access_change(session, user_id)
        return user

    async def remove(self, user_id: str) -> None:
        """Remove a user with everything that is theirs; their streams end at once.

        Raises 404, and 409 when no enabled global_admin would be left. The rights go first: if it
        is interrupted, the user is disabled, and can be removed again.
        """
        async with self._database.write(alone=True) as session:
            user = await _existing(session, user_id, lock=True)
            was_admin = _is_admin(user)
            user.disabled = True
            if was_admin:
                await _must_leave_an_admin(session)
            for owned in (Session, ApiKey, Membership):
                await session.execute(delete(owned).where(owned.user_id == user_id))
            await record_access_change(session, user_id)
        for model in (LogEntry, Notification, ClientActivity):
            await self._database.delete_in_steps(model, model.user_id == user_id)
        async with self._database.write() as session:
            await session.execute(delete(User).where(User.id == user_id))

    async def emails(self, user_ids: Collection[str]) -> Mapping[str, str]:
        """The addresses of users, by their ids; those that are gone are left out."""
        rows = await self._database.look_up(self._emails, sorted(user_ids)) if user_ids else ()
        return {row[0]: row[1] for row in rows}

    async def sessions_of(
        self, user_id: str, caller: Principal, paging: Paging
    ) -> tuple[list[Any], bool]:
        """The sessions of a user that have not expired. Raises 404 for no user."""
        async with self._database.read() as session:
            await _existing(session, user_id)
        # A session has no id but the hash that it is found by.
        theirs = select(
            Session.token_hash.label("id"),
            Session.created_at,
            Session.expires_at,
            (Session.token_hash == caller.credential).label("current"),
        ).where(Session.user_id == user_id, Session.expires_at > utc_now())
        return await page_of(self._database, theirs, paging)

    async def end_session(self, user_id: str, session_id: str) -> None:
        """End one session of a user; its streams end at once. Raises 404."""
        async with self._database.write() as session:
            ended = delete(Session).where(
                Session.token_hash == session_id, Session.user_id == user_id
            )
            if await session.scalar(ended.returning(Session.token_hash)) is None:
                raise not_found("session", session_id)
            await record_access_change(session, user_id)

    async def teams_of(self, user: Principal, paging: Paging) -> tuple[list[Any], bool]:
        mine = (
            select(Team.id, Team.name, Membership.role, Team.created_at)
            .join(Membership, Membership.team_id == Team.id)
            .where(Membership.user_id == user.id)
        )
        return await page_of(self._database, mine, paging)

    async def keys_of(self, user: Principal, paging: Paging) -> tuple[list[Any], bool]:
        mine = select(ApiKey.id, ApiKey.name, ApiKey.created_at).where(ApiKey.user_id == user.id)
        return await page_of(self._database, mine, paging)

    async def add_key(self, user: Principal, name: str) -> tuple[str, str]:
        """A new key: its id and, this once, the key itself. Raises 409 for one too many."""
        key_id, key = uuid4().hex, new_token(API_KEY)
        async with self._database.write() as session:
            mine = select(func.count()).select_from(ApiKey).where(ApiKey.user_id == user.id)
            if (await session.scalar(mine) or 0) >= self._max_keys:
                raise Problem(409, f"You have {self._max_keys} API keys: delete one first.")
            session.add(ApiKey(id=key_id, user_id=user.id, name=name, key_hash=hash_token(key)))
        return key_id, key

    async def delete_key(self, user: Principal, key_id: str) -> None:
        """Delete a key. Streams that were opened with it end at once. Raises 404."""
        async with self._database.write() as session:
            deleted = delete(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user.id)
            if await session.scalar(deleted.returning(ApiKey.id)) is None:
                raise not_found("API key", key_id)
            await record_access_change(session, user.id)


async def _existing(session: AsyncSession, user_id: str, *, lock: bool = False) -> User:
    """The user. Raises 404. ``lock``: on PostgreSQL others then wait to change or remove them."""
    user = await session.get(User, user_id, with_for_update={"key_share": True} if lock else None)
    if user is None:
        raise not_found("user", user_id)
    return user


def _is_admin(user: User) -> bool:
    return user.role == "global_admin" and not user.disabled


async def _must_leave_an_admin(session: AsyncSession) -> None:
    admins = select(User.id).where(User.role == "global_admin", User.disabled.is_(False))
    if await session.scalar(admins.limit(1)) is None:
        raise Problem(409, "This is the last enabled global_admin: make another one first.")
