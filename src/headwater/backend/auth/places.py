"""Where a user signed in before: devices, which a cookie names, and networks.

Each of these places has tries of its own. So a stranger who guesses passwords cannot use up the
tries of the account's owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.auth.tokens import hash_token, new_token
from headwater.backend.database import Database
from headwater.backend.models import SignInPlace, User
from headwater.backend.times import utc_now

# For how long a place is known after its last sign-in.
KEPT = timedelta(days=180)
# Places of one user. Beyond these, the one with the oldest sign-in is forgotten.
_MOST = 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sign-in comes from.

    Attributes:
        network: the client's.
        device: the token that its browser keeps, or None.
    """

    network: str
    device: str | None

    @property
    def network_hash(self) -> str:
        return hash_token(f"network:{self.network}")

    @property
    def device_hash(self) -> str | None:
        return None if self.device is None else hash_token(f"device:{self.device}")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a place.

    Attributes:
        device: the user signed in on this device before.
        network: the user signed in from this network before.
        issued: this server gave the device's token to somebody.
    """

    device: bool
    network: bool
    issued: bool


class Places:
    """The places of all users."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known = (
            select(SignInPlace.place, User.email)
            .join(User, User.id == SignInPlace.user_id)
            .where(database.among(SignInPlace.place))
            .where(
                (User.email == bindparam("email", type_=User.email.type))
                | (SignInPlace.place == bindparam("device", type_=SignInPlace.place.type))
            )
        )

    async def look_up(self, email: str, place: Place) -> Known:
        """What is known of a place, for an address that may be nobody's."""
        device = place.device_hash or ""
        keys = [place.network_hash, device]
        rows = await self._database.look_up(self._known, keys, email=email, device=device)
        found = [(each, owner == email) for each, owner in rows]
        return Known(
            device=(place.device_hash, True) in found,
            network=(place.network_hash, True) in found,
            issued=any(each == place.device_hash for each, _ in found),
        )

    async def remember(
        self, session: AsyncSession, user_id: str, place: Place, *, issued: bool
    ) -> str:
        """Remember a place. Returns the token for its device.

        A token that was not issued here is replaced, because somebody else may have set the cookie.
        """
        device = place.device if issued and place.device is not None else new_token()
        now = utc_now()
        place = Place(place.network, device)
        for each in (place.network_hash, place.device_hash):
            await session.execute(
                self._database.insert(SignInPlace)
                .values(user_id=user_id, place=each, last_at=now)
                .on_conflict_do_update(index_elements=["user_id", "place"], set_={"last_at": now})
            )
        latest = (
            select(SignInPlace.place)
            .where(SignInPlace.user_id == user_id)
            .order_by(SignInPlace.last_at.desc())
            .limit(_MOST)
        )
        await session.execute(
            delete(SignInPlace).where(
                SignInPlace.user_id == user_id, SignInPlace.place.not_in(latest)
            )
        )
        return device

    async def remove_old(self, session: AsyncSession) -> None:
        """Delete places that were not used for a long time."""
        await session.execute(delete(SignInPlace).where(SignInPlace.last_at < utc_now() - KEPT))
