"""The resources and services of a running application."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

from fastapi import Depends, Request

from headwater.backend.activity.service import Activities
from headwater.backend.auth.passwords import Passwords
from headwater.backend.auth.repository import Credentials
from headwater.backend.auth.service import SignIns
from headwater.backend.database import Address, Database
from headwater.backend.idempotency.service import Repeats
from headwater.backend.logs.service import Logs
from headwater.backend.models import AccessChange, ClientActivity, LogEntry, Notification
from headwater.backend.notifications.service import Notifications
from headwater.backend.probes import Probes
from headwater.backend.queries import clients_of, satellites_of, teams_of
from headwater.backend.satellites.board import Board
from headwater.backend.satellites.service import Satellites
from headwater.backend.settings import Settings
from headwater.backend.teams.service import Teams
from headwater.backend.throttle import Writes
from headwater.backend.users.service import Users
from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog, open_log
from headwater.eventlog.sql import SqlLog
from headwater.sql import Table

logger = logging.getLogger("headwater.backend")


class Tables:
    """The tables and live queries that the feeds read."""

    def __init__(self, database: Database) -> None:
        self.logs = Table(database.engine, LogEntry)
        self.notifications = Table(database.engine, Notification)
        self.activity = Table(database.engine, ClientActivity)
        self.access_changes = Table(database.engine, AccessChange)
        self.clients = clients_of(database.engine)
        self.teams = teams_of(database.engine)
        self.satellites = satellites_of(database.engine)


class Backend:
    """Every resource and service of one application."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = database = Database(Address.parse(settings.database))
        self.log = log = _event_log(settings, database)
        self.tables = Tables(database)
        self.probes = Probes(database, log)
        self.passwords = Passwords(
            time_cost=settings.argon2_time_cost,
            memory_kib=settings.argon2_memory_kib,
            concurrency=settings.argon2_concurrency,
        )
        self.credentials = Credentials(database)
        self.sign_ins = SignIns(database, self.passwords, settings)
        self.writes = Writes(settings.writes_per_second, largest=settings.max_body_bytes)
        self.repeats = Repeats(database)
        self.users = Users(database, self.passwords, settings)
        self.teams = Teams(database)
        self.notifications = Notifications(database, self.repeats)
        self.logs = Logs(database, self.repeats)
        self.satellites = Satellites(database, log, self.repeats)
        self.activities = Activities(database)
        self.board = Board(self.tables.satellites, log)
        # E-mail addresses and passwords that the console shows to everybody: those of the demo.
        self.accounts: Sequence[tuple[str, str]] = ()


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncIterator[Backend]:
    """Open every resource and service, without HTTP. The database must have been migrated."""
    async with AsyncExitStack() as stack:
        backend = Backend(settings)
        stack.push_async_callback(backend.database.close)
        stack.push_async_callback(backend.log.close)
        stack.callback(backend.passwords.close)
        stack.callback(backend.probes.close)
        try:
            await backend.log.start()
        except SourceUnavailableError as error:
            # Everything else can serve meanwhile. /readyz reports that the log is down.
            logger.warning("%s", error)
        yield backend


def _event_log(settings: Settings, database: Database) -> EventLog:
    """The event log. In the application's own database it shares its connections."""
    if settings.event_log_url == settings.database:
        return SqlLog(database.engine)
    return open_log(settings.event_log_url)


def backend_of(request: Request) -> Backend:
    """The running application's resources and services."""
    backend = request.app.state.backend
    assert isinstance(backend, Backend)
    return backend


# A coroutine function: FastAPI runs other functions in a thread, which costs more than most
# requests do.
async def _backend(request: Request) -> Backend:
    return backend_of(request)


BackendState = Annotated[Backend, Depends(_backend)]
