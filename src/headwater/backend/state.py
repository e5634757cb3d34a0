"""The resources and services of a running application."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from headwater.backend.activity.service import Activities
from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.repository import Credentials
from headwater.backend.auth.service import SignIns
from headwater.backend.database import Database
from headwater.backend.idempotency.service import Repeats
from headwater.backend.logs.service import Logs
from headwater.backend.models import AccessChange, ClientActivity, LogEntry, Notification
from headwater.backend.notifications.service import Notifications
from headwater.backend.queries import clients_of, satellites_of, teams_of
from headwater.backend.satellites.board import Board
from headwater.backend.satellites.service import Satellites
from headwater.backend.settings import Settings
from headwater.backend.teams.service import Teams
from headwater.backend.throttle import Writes
from headwater.backend.users.service import Users
from headwater.eventlog import EventLog
from headwater.sql import Table

__all__ = ["Backend", "BackendState", "Tables", "backend_of"]


class Tables:
    """The tables and queries that are followed, one reader each."""

    def __init__(self, database: Database) -> None:
        self.logs = Table(database.engine, LogEntry)
        self.notifications = Table(database.engine, Notification)
        self.activity = Table(database.engine, ClientActivity)
        self.access_changes = Table(database.engine, AccessChange)
        self.clients = clients_of(database.engine)
        self.teams = teams_of(database.engine)
        self.satellites = satellites_of(database.engine)


@dataclass(slots=True)
class Backend:
    """Every resource and service of one application."""

    settings: Settings
    database: Database
    log: EventLog
    tables: Tables
    passwords: Passwords
    credentials: Credentials
    sign_ins: SignIns
    writes: Writes
    users: Users
    teams: Teams
    notifications: Notifications
    logs: Logs
    satellites: Satellites
    activities: Activities
    repeats: Repeats
    board: Board
    # E-mail address and password of those that everybody may know: the demo has some.
    accounts: Sequence[tuple[str, str]] = ()


def backend_of(request: Request) -> Backend:
    """The running application's resources and services."""
    backend = request.app.state.backend
    assert isinstance(backend, Backend)
    return backend


# FastAPI calls a dependency that is no coroutine function in a thread. That costs more than
# most requests do. So this one and those for services are coroutine functions.
async def _backend(request: Request) -> Backend:
    return backend_of(request)


BackendState = Annotated[Backend, Depends(_backend)]
