"""From an address to an event log. A driver is imported when an address needs it."""

from __future__ import annotations

from importlib import import_module
from typing import cast
from urllib.parse import unquote

from headwater.errors import MissingExtraError, UsageError
from headwater.eventlog._interface import EventLog
from headwater.eventlog._memory import MemoryLog

# The schemes of an engine, its module and function, and the extra that brings its driver.
_ENGINES = [
    (("sqlite", "sqlite+aiosqlite"), "sql", "open_sqlite", "sql"),
    (("postgresql", "postgres", "postgresql+psycopg"), "sql", "open_postgresql", "postgres"),
    (("redis", "rediss", "valkey", "valkeys"), "redis", "open_redis", "redis"),
    (("nats", "tls"), "nats", "open_nats", "nats"),
]


def open_log(url: str) -> EventLog:
    """The log at ``memory://``, ``sqlite:///path``, ``postgresql://``, ``redis://`` or ``nats://``.

    ``sqlite:`` takes four slashes for an absolute path. ``postgresql:`` takes whatever libpq reads,
    as in ``postgresql://user@host/name`` or ``postgresql:///name?host=/folder``. ``valkey://`` is
    ``redis://``; for TLS both end in an ``s``, and NATS has ``tls://``.

    Raises UsageError for an address of no engine of this version, and MissingExtraError when the
    engine's driver is not installed. Nothing is opened before ``start()`` or the first use.
    """
    if not isinstance(url, str):
        raise UsageError(f"event log address: give a str, not a {type(url).__name__}")
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme == "memory":
        return MemoryLog()
    for schemes, module, function, extra in _ENGINES:
        if scheme in schemes:
            place = _path_of(url) if function == "open_sqlite" else url
            try:
                opened = getattr(import_module(f"headwater.eventlog.{module}"), function)(place)
            except ImportError as error:  # psycopg raises it too, if it finds no libpq
                raise MissingExtraError(extra, error.name or extra) from error
            return cast("EventLog", opened)
    # The address itself may hold a password, so only its scheme is shown.
    raise UsageError(
        f"event log {scheme + '://' if scheme else 'address'}: this version has the engines "
        "memory://, sqlite:///path, postgresql://, redis:// and nats://"
    )


def _path_of(url: str) -> str:
    rest = url.partition("://")[2]
    path = unquote(rest[1:])
    if not rest.startswith("/") or path in {"", ":memory:"} or set(path) & {"?", "\0"}:
        raise UsageError(
            "event log sqlite://: give a file and no options, as in sqlite:///events.db, "
            "or memory:// for a log that is not kept"
        )
    return path
