"""Checks before the server starts, so that a mistake gives a sentence and no traceback."""

from __future__ import annotations

from headwater.backend.database import Address, StartupError
from headwater.backend.schema import check_reachable
from headwater.backend.settings import Settings
from headwater.eventlog import open_log
from headwater.eventlog.sql import SqlLog


def check_event_log(settings: Settings, database: Address) -> None:
    """Raise HeadwaterError for an event log that this version, or these workers, cannot use."""
    url = settings.event_log_url
    if url == settings.database:
        return
    log = open_log(url)
    if url.startswith("memory:"):
        if settings.workers > 1:
            raise StartupError(
                "--event-log memory:// is the memory of one process, so it works with --workers 1 "
                "only: leave it out to keep events in the database."
            )
        return
    if not isinstance(log, SqlLog):
        return  # /readyz reports whether its server can be reached
    address = Address.parse(url)
    if address != database:
        check_reachable(address)
