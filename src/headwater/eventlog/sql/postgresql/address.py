"""From a libpq-style address to an engine."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from headwater.errors import UsageError

__all__ = ["engine_of"]

# Appends take one connection and three more while topics are held; the rest is for reads.
POOL, OVERFLOW = 5, 10
# Seconds. libpq would wait for as long as the network does, which is minutes, and the system would
# hold on to a connection to a host that is gone for hours. Nothing of it counts on a Unix socket.
DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "headwater",
}


def engine_of(url: str) -> AsyncEngine:
    """An engine for whatever libpq takes: ``postgresql://user@host/name``, ``?host=/folder`` …

    Raises UsageError, which does not show the address: it may hold a password.
    """
    try:
        address = _address("postgresql://" + url.partition("://")[2])
        return create_async_engine(address, pool_size=POOL, max_overflow=OVERFLOW)
    except (psycopg.Error, ArgumentError):
        raise UsageError(
            "event log postgresql://: this is no address that libpq can read; give "
            "postgresql://user@host:port/name, or postgresql:///name?host=/folder for a socket"
        ) from None


def _address(url: str) -> URL:
    found = conninfo_to_dict(url)
    values = {name: str(value) for name, value in found.items() if value is not None}
    values = DEFAULTS | values
    return URL.create(
        "postgresql+psycopg",
        username=values.pop("user", None),
        password=values.pop("password", None),
        database=values.pop("dbname", None),
        query=values,
    )
