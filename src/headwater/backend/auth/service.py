"""Signing in and out."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, insert, select, update

from headwater.backend.access import tell_access_change
from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.principal import Principal
from headwater.backend.auth.throttle import Throttle, network_of, whole_seconds
from headwater.backend.auth.tokens import hash_token, new_token
from headwater.backend.database import Database
from headwater.backend.models import Session, User
from headwater.backend.problems import too_many, unauthorized
from headwater.backend.schemas import normal_email
from headwater.backend.times import utc_now

__all__ = ["SignIns", "SignedIn"]

logger = logging.getLogger("headwater.backend")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A fresh session. ``token`` is for the cookie and is stored nowhere."""

    token: str
    user_id: str
    email: str
    role: str


class SignIns:
    """Sessions: made for the right password, ended by signing out or by their age.

    Attributes:
        failures: sign-ins with a wrong pair, for ``/metrics``.
        throttled: sign-ins that were refused before their password was checked.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        *,
        lifetime: timedelta,
        per_email: int,
        per_address: int,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._lifetime = lifetime
        self._by_email = Throttle(per_email)
        self._by_address = Throttle(per_address)
        self.failures = 0
        self.throttled = 0

    async def sign_in(self, email: str, password: str, address: str | None) -> SignedIn:
        """A session for the right pair.

        Raises 401, the same and after the same work whether the address is unknown, the password
        wrong or the user disabled; 429 after too many wrong pairs.
        """
        email, network = normal_email(email), network_of(address)
        self._take_a_try(email, network)
        async with self._database.read() as session:
            found = (
                await session.execute(
                    select(User.id, User.role, User.disabled, User.password_hash).where(
                        User.email == email
                    )
                )
            ).first()
        stored = found.password_hash if found is not None else None
        right = await self._passwords.verify(stored, password)
        if found is None or not right or found.disabled:
            self.failures += 1
            raise unauthorized("E-mail address and password do not match.")
        self._by_email.give_back(email)
        self._by_address.give_back(network)
        token = new_token()
        renewed = None
        if self._passwords.outdated(found.password_hash):
            renewed = await self._passwords.hash(password)
        async with self._database.write() as session:
            await session.execute(
                insert(Session).values(
                    token_hash=hash_token(token),
                    user_id=found.id,
                    expires_at=utc_now() + self._lifetime,
                )
            )
            if renewed is not None:
                await session.execute(
                    update(User).where(User.id == found.id).values(password_hash=renewed)
                )
        return SignedIn(token, found.id, email, found.role)

    async def sign_out(self, user: Principal) -> None:
        """End the session that the request came with; its streams end at once."""
        async with self._database.write() as session:
            await session.execute(delete(Session).where(Session.token_hash == user.credential))
            await tell_access_change(session, user.id)

    async def remove_expired(self) -> None:
        """Delete sessions that are over."""
        async with self._database.write() as session:
            await session.execute(delete(Session).where(Session.expires_at <= utc_now()))

    def _take_a_try(self, email: str, network: str) -> None:
        # Taken before the password is checked, so that many at once cannot exceed the limit.
        wait = self._by_address.take(network)
        if not wait:
            wait = self._by_email.take(email)
            if wait:
                self._by_address.give_back(network)
        if wait:
            self.throttled += 1
            raise too_many("Too many wrong sign-ins; try again later.", whole_seconds(wait))
