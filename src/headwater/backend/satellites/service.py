"""Satellites, and the metrics they report into the event log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.access import record_access_change_in_team
from headwater.backend.auth.loader import Loader
from headwater.backend.auth.principal import Principal
from headwater.backend.auth.tokens import SATELLITE_KEY, hash_token, new_token
from headwater.backend.database import Database
from headwater.backend.idempotency.service import Repeats, RequestKey
from headwater.backend.listing import Paging, page_of
from headwater.backend.models import ClientActivity, RetiredSatelliteKey, Satellite, Team
from headwater.backend.problems import invalid, not_found
from headwater.backend.satellites.schemas import MetricsReport
from headwater.backend.times import utc_now
from headwater.eventlog import EventLog
from headwater.web.problems import Problem


def topic_of(satellite_id: str) -> str:
    """The event log's topic of a satellite's metrics."""
    return f"satellite:{satellite_id}"


class Known(NamedTuple):
    """A satellite that exists, and its team."""

    id: str
    team_id: str | None


class Satellites:
    """What can be done with satellites."""

    def __init__(self, database: Database, log: EventLog, repeats: Repeats) -> None:
        self._database = database
        self._log = log
        self._repeats = repeats
        self._of_ids = select(Satellite.id, Satellite.team_id).where(database.among(Satellite.id))
        self._known = Loader(self._find)

    async def find(self, satellite_id: str) -> Known | None:
        """The satellite with its team, which rights depend on; None if it does not exist."""
        return await self._known.load(satellite_id)

    async def page(self, user: Principal, paging: Paging) -> tuple[list[Any], bool]:
        """The satellites that a user may know of."""
        visible = select(Satellite.id, Satellite.name, Satellite.team_id, Satellite.created_at)
        if not user.may("teams.view_all"):
            visible = visible.where(
                or_(Satellite.team_id.is_(None), Satellite.team_id.in_(sorted(user.teams)))
            )
        return await page_of(self._database, visible, paging)

    async def register(self, user: Principal, name: str, team_id: str | None) -> tuple[str, str]:
        """Add a satellite. Returns its id and its key, of which only the hash is stored.

        With ``satellites.manage`` in a team a user registers satellites of that team only. Raises
        403, and 422 for a team that does not exist, or that the user may not know of.
        """
        if team_id is None and not user.may("satellites.manage"):
            raise Problem(
                403, "You may register satellites of a team that you administer: give its team_id."
            )
        if not user.knows_satellite_of(team_id):
            raise invalid("team_id", "there is no such team", value=team_id)
        if not user.may_in("satellites.manage", team_id):
            raise Problem(403, "You do not administer this team.")
        satellite_id, key = uuid4().hex, new_token(SATELLITE_KEY)
        async with self._database.write() as session:
            if team_id is not None and await session.get(Team, team_id) is None:
                raise invalid("team_id", "there is no such team", value=team_id)
            session.add(
                Satellite(id=satellite_id, name=name, team_id=team_id, key_hash=hash_token(key))
            )
        return satellite_id, key

    async def renew_key(
        self, user: Principal, satellite_id: str, overlap: timedelta
    ) -> tuple[str, datetime]:
        """Make a new key for a satellite. Returns it, and when the former keys end.

        Those work for ``overlap`` more, so that the agent can be given the new one. Raises 403 and
        404.
        """
        key, until = new_token(SATELLITE_KEY), utc_now() + overlap
        async with self._database.write() as session:
            satellite = await _managed(session, user, satellite_id)
            # A key that ends sooner keeps its end.
            await session.execute(
                update(RetiredSatelliteKey)
                .where(
                    RetiredSatelliteKey.satellite_id == satellite_id,
                    RetiredSatelliteKey.expires_at > until,
                )
                .values(expires_at=until)
            )
            session.add(
                RetiredSatelliteKey(
                    key_hash=satellite.key_hash, satellite_id=satellite_id, expires_at=until
                )
            )
            satellite.key_hash = hash_token(key)
        return key, until

    async def remove(self, user: Principal, satellite_id: str) -> None:
        """Remove a satellite, its keys and its clients; streams of its metrics end at once.

        Raises 403 and 404. Nobody can read its metrics any more, and they are trimmed later.
        """
        async with self._database.write() as session:
            satellite = await _managed(session, user, satellite_id)
            # Nobody has this key, so the satellite can report no more.
            satellite.key_hash = hash_token(new_token())
            await session.execute(
                delete(RetiredSatelliteKey).where(RetiredSatelliteKey.satellite_id == satellite_id)
            )
        await self._database.delete_in_steps(
            ClientActivity, ClientActivity.satellite_id == satellite_id
        )
        async with self._database.write() as session:
            await session.execute(delete(Satellite).where(Satellite.id == satellite_id))
            await record_access_change_in_team(session, satellite.team_id)

    async def remove_expired_keys(self) -> None:
        """Delete former keys that have expired."""
        async with self._database.write() as session:
            await session.execute(
                delete(RetiredSatelliteKey).where(RetiredSatelliteKey.expires_at <= utc_now())
            )

    async def report(
        self,
        satellite_id: str,
        reports: Sequence[MetricsReport],
        key: RequestKey | None = None,
    ) -> list[str]:
        """Append metrics to the satellite's topic, all or none. Returns their ids.

        A request whose ``key`` was used before appends nothing, and gets the ids of the first one.
        """
        if key is not None:
            # The event log may be elsewhere, so that no transaction holds both. A process that
            # dies in between leaves a claim without an answer, and the log knows the append's key.
            async with self._database.write() as session:
                key, first = await self._repeats.answered(session, key)
            if first is not None:
                return list(first)
        now = utc_now()
        events = [{**report.model_dump(), "at": _in_zulu(report.at or now)} for report in reports]
        append_key = None if key is None else key.append_key
        records = await self._log.append(topic_of(satellite_id), events, key=append_key)
        ids = [str(record.offset) for record in records]
        if key is not None:
            async with self._database.write() as session:
                await self._repeats.keep(session, key, ids)
        return ids

    async def _find(self, satellite_ids: Sequence[str]) -> Mapping[str, Any]:
        rows = await self._database.look_up(self._of_ids, satellite_ids)
        return {satellite_id: Known(satellite_id, team_id) for satellite_id, team_id in rows}


def _in_zulu(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


async def _managed(session: AsyncSession, user: Principal, satellite_id: str) -> Satellite:
    """A satellite, for a user who may manage it. Raises 403 and 404."""
    # On PostgreSQL two renewals would else retire the same key, and lose one of theirs.
    found = await session.get(Satellite, satellite_id, with_for_update=True)
    if found is None or not user.knows_satellite_of(found.team_id):
        raise not_found("satellite", satellite_id)
    if not user.may_in("satellites.manage", found.team_id):
        raise Problem(403, "The permission satellites.manage is missing for this satellite.")
    return found
