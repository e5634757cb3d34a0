"""From an address to an event log. No driver is imported before it is asked for."""

from __future__ import annotations

from urllib.parse import urlsplit

from headwater.errors import MissingExtraError, UsageError
from headwater.eventlog.interface import EventLog
from headwater.eventlog.memory import MemoryLog

__all__ = ["open_log"]


def open_log(url: str) -> EventLog:
    """The log at ``memory://``, ``sqlite:///path``, ``postgresql://``, ``redis://`` or ``nats://``.

    ``sqlite:`` takes four slashes for an absolute path. ``postgresql:`` takes whatever libpq reads,
    as in ``postgresql://user@host/name`` or ``postgresql:///name?host=/folder``. ``valkey://`` is
    ``redis://``; for TLS both end in an ``s``, and NATS has ``tls://``.

    Raises UsageError for an address of no engine of this version, and MissingExtraError when the
    engine's driver is not installed. Nothing is opened before ``start()`` or the first use.
    """
    scheme = urlsplit(url).scheme.lower() if "://" in url else ""
    if scheme == "memory":
        return MemoryLog()
    if scheme in {"sqlite", "sqlite+aiosqlite"}:
        try:
            from headwater.eventlog.sql import open_sqlite
        except ModuleNotFoundError as error:
            raise MissingExtraError("sql", error.name or "sqlalchemy") from error
        rest = url.partition("://")[2]
        path = rest[1:]
        if not rest.startswith("/") or path in {"", ":memory:"} or "?" in path:
            raise UsageError(
                "event log sqlite://: give a file and no options, as in sqlite:///events.db, "
                "or memory:// for a log that is not kept"
            )
        return open_sqlite(path)
    if scheme in {"postgresql", "postgres", "postgresql+psycopg"}:
        try:
            from headwater.eventlog.sql import open_postgresql

            return open_postgresql(url)
        except ImportError as error:  # psycopg itself says so when it lacks libpq
            raise MissingExtraError("postgres", error.name or "psycopg") from error
    if scheme in {"redis", "rediss", "valkey", "valkeys"}:
        try:
            from headwater.eventlog.redis import open_redis
        except ModuleNotFoundError as error:
            raise MissingExtraError("redis", error.name or "redis") from error
        return open_redis(url)
    if scheme in {"nats", "tls"}:
        try:
            from headwater.eventlog.nats import open_nats
        except ModuleNotFoundError as error:
            raise MissingExtraError("nats", error.name or "nats") from error
        return open_nats(url)
    # The address itself may hold a password, so only its scheme is shown.
    raise UsageError(
        f"event log {scheme + '://' if scheme else 'address'}: this version has the engines "
        "memory://, sqlite:///path, postgresql://, redis:// and nats://"
    )
