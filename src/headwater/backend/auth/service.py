"""Signing in and out."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.access import record_access_change
from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.places import Known, Place, Places
from headwater.backend.auth.principal import Principal
from headwater.backend.auth.tokens import hash_token, new_token
from headwater.backend.auth.tries import Bucket, Tries
from headwater.backend.database import Database
from headwater.backend.models import Session, User
from headwater.backend.problems import too_many, unauthorized
from headwater.backend.schemas import normal_email
from headwater.backend.settings import Settings
from headwater.backend.times import utc_now
from headwater.web._addresses import network_of
from headwater.web.problems import Problem

logger = logging.getLogger("headwater.backend")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A fresh session.

    Attributes:
        token: for the session's cookie; only its hash is stored.
        device: for the device's cookie; only its hash is stored.
    """

    token: str
    device: str
    user: Principal


class SignIns:
    """Sessions: made for the right password, ended by signing out or by their age.

    Attributes:
        failures: sign-ins with a wrong pair, for ``/metrics``.
        throttled: sign-ins that were refused before their password was checked.
    """

    def __init__(self, database: Database, passwords: Passwords, settings: Settings) -> None:
        self._database = database
        self._passwords = passwords
        self._settings = settings
        self._tries = Tries(database)
        self._places = Places(database)
        self.failures = 0
        self.throttled = 0

    def check_network(self, address: str | None) -> None:
        """Raise 429 if this process knows that the client's network has no try left.

        It runs no statement, so it can be called before the request's body is read.
        """
        self._refuse(self._tries.wait(self._of_network(network_of(address))))

    async def sign_in(
        self, email: str, password: str, address: str | None, device: str | None = None
    ) -> SignedIn:
        """A session for the right pair.

        A device or a network from which the user signed in before has tries of its own. All others
        share some, and there a right password waits like a wrong one. Raises 401, the same and
        after the same work whether the address is unknown, the password wrong or the user
        disabled; 429 after too many wrong pairs. Any other error costs no try.

        Arguments:
            address: the client's.
            device: the token of the client's device, if it has one.
        """
        email, place = normal_email(email), Place(network_of(address), device)
        known = await self._places.look_up(email, place)
        buckets = self._buckets(email, place, known)
        # Taken before the password is verified, so that many at once cannot outrun the limit.
        self._refuse(await self._tries.take(buckets))
        try:
            return await self._judged(email, password, place, known, buckets)
        except Exception as error:
            if not (isinstance(error, Problem) and error.status_code == 401):
                # Nobody learned whether the password was right.
                self._tries.owe(buckets)
            raise

    async def _judged(
        self, email: str, password: str, place: Place, known: Known, buckets: list[Bucket]
    ) -> SignedIn:
        """A session for the right pair. Raises 401."""
        async with self._database.read() as session:
            found = await session.scalar(select(User).where(User.email == email))
        stored = found.password_hash if found is not None else None
        stranger = not known.device and not known.network
        right = await self._passwords.verify(stored, password, stranger=stranger)
        if found is None or not right or found.disabled:
            raise self._failed()
        token = new_token()
        user = Principal("user", found.id, "session", hash_token(token), email, found.role)
        renewed = None
        if self._passwords.outdated(found.password_hash):
            renewed = await self._passwords.hash(password)
        async with self._database.write() as session:
            await self._must_be_enabled(session, found.id)
            await self._tries.give_back(session, buckets)
            device = await self._places.remember(session, found.id, place, issued=known.issued)
            await self._end_oldest(session, found.id)
            ends = utc_now() + self._settings.session_lifetime
            session.add(Session(token_hash=user.credential, user_id=user.id, expires_at=ends))
            if renewed is not None:
                await session.execute(
                    update(User).where(User.id == found.id).values(password_hash=renewed)
                )
        return SignedIn(token, device, user)

    async def _must_be_enabled(self, session: AsyncSession, user_id: str) -> None:
        """Raise 401 for a user who was disabled or removed while the password was verified.

        Their sessions were deleted then, and a new one would work once they are enabled again. On
        PostgreSQL the lock makes a change of the user wait until this session can be deleted too.
        """
        enabled = await session.scalar(
            select(User.id)
            .where(User.id == user_id, User.disabled.is_(False))
            .with_for_update(key_share=True)
        )
        if enabled is None:
            raise self._failed()

    async def _end_oldest(self, session: AsyncSession, user_id: str) -> None:
        """End a user's oldest sessions, so that there is room for one more."""
        oldest = (
            select(Session.token_hash)
            .where(Session.user_id == user_id)
            .order_by(Session.created_at.desc(), Session.token_hash)
            .offset(self._settings.max_credentials - 1)
            .limit(100)
        )
        ended = delete(Session).where(Session.token_hash.in_(oldest)).returning(Session.token_hash)
        if (await session.scalars(ended)).first() is not None:
            await record_access_change(session, user_id)

    def _failed(self) -> Exception:
        self.failures += 1
        return unauthorized("E-mail address and password do not match.")

    async def sign_out(self, user: Principal) -> None:
        """End the session that the request came with; its streams end at once."""
        async with self._database.write() as session:
            await session.execute(delete(Session).where(Session.token_hash == user.credential))
            await record_access_change(session, user.id)

    async def remove_expired(self) -> None:
        """Delete sessions that have expired, and old tries and places."""
        async with self._database.write() as session:
            await session.execute(delete(Session).where(Session.expires_at <= utc_now()))
            await self._tries.remove_full(session)
            await self._places.remove_old(session)

    def _buckets(self, email: str, place: Place, known: Known) -> list[Bucket]:
        if known.device:
            return [
                Bucket(f"device:{place.device_hash}:{email}", self._settings.login_tries_per_email)
            ]
        whose = f"network:{place.network_hash}:{email}" if known.network else f"email:{email}"
        return [
            self._of_network(place.network),
            Bucket(whose, self._settings.login_tries_per_email),
        ]

    def _of_network(self, network: str) -> Bucket:
        return Bucket(f"network:{network}", self._settings.login_tries_per_address)

    def _refuse(self, wait: float) -> None:
        if wait:
            self.throttled += 1
            raise too_many("Too many wrong sign-ins; try again later.", wait)
