"""Engines on PostgreSQL, from whatever libpq takes as an address."""

from __future__ import annotations

from typing import Any

from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from headwater.errors import DeclarationError, MissingExtraError

__all__ = ["apart", "postgresql_engine"]

# Seconds. libpq would wait for as long as the network does, which may be minutes.
CONNECT_TIMEOUT = "10"


def postgresql_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine on psycopg.

    Arguments:
        url: as libpq takes it: ``postgresql://user@host:port/name``, several hosts,
            ``postgresql:///name?host=/folder`` for a socket, further options as parameters. Or with
            ``+psycopg``, as SQLAlchemy writes it.
        options: handed on to SQLAlchemy's ``create_async_engine``.

    Raises DeclarationError, which does not show the address: it may hold a password.
    """
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise MissingExtraError("postgres", "psycopg") from error
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise DeclarationError(f"{scheme!r}:// is not the address of a PostgreSQL database")
    try:
        found = conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.Error:
        raise DeclarationError(
            "this is no address that libpq can read; give postgresql://user@host:port/name, or "
            "postgresql:///name?host=/folder for a socket"
        ) from None
    values = {name: str(value) for name, value in found.items() if value is not None}
    values.setdefault("connect_timeout", CONNECT_TIMEOUT)
    values.setdefault("application_name", "headwater")
    address = URL.create(
        "postgresql+psycopg",
        username=values.pop("user", None),
        password=values.pop("password", None),
        database=values.pop("dbname", None),
        query=values,
    )
    return create_async_engine(address, **options)


def apart(engine: AsyncEngine) -> AsyncEngine:
    """One like it with a pool of its own: what is kept for long is taken from nobody there."""
    like = engine.sync_engine
    return AsyncEngine(Engine(like.pool.recreate(), like.dialect, like.url))
