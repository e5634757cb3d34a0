"""Connections to PostgreSQL: addresses, engines, and what a server says about itself."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from headwater.errors import DeclarationError, MissingExtraError

SCHEMES = frozenset({"postgresql", "postgres", "postgresql+psycopg"})

# Options for an address that does not set them. libpq would wait for a connection for as long as
# the network does, which is minutes. The system would keep a connection to a lost host for hours.
# They have no effect on a Unix socket. All but the last two are in seconds.
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",  # milliseconds
    "application_name": "headwater",
}

# Options that libpq or psycopg would read as numbers when it connects.
_NUMBERS = ("keepalives", *(name for name, value in _DEFAULTS.items() if value.isdigit()))

# By event loop and database.
Shared: TypeAlias = tuple[int, "str | sa.Engine"]

# PostgreSQL 13 brought xid8, pg_current_xact_id and pg_visible_in_snapshot.
OLDEST = 130000

# Seconds that the server may take to answer the questions of a first connection.
_FIRST_CONNECTION = 5.0


def address_of(url: str) -> sa.URL:
    """Read an address as libpq takes it, and return it as SQLAlchemy takes it, for psycopg.

    Several hosts, Unix sockets (``?host=/folder``), percent-encoded passwords and all of libpq's
    options work. One host stands in the URL's host and port, several stand in its query.

    Raises DeclarationError, which does not show the address: it may hold a password.
    """
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise MissingExtraError("postgres", "psycopg") from error
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in SCHEMES:
        raise DeclarationError(f"{scheme!r}:// is not the address of a PostgreSQL database")
    try:
        found = conninfo_to_dict(f"postgresql://{rest}")
        options = {name: str(value) for name, value in found.items() if value is not None}
        host, port = options.get("host", ""), options.get("port", "")
        if host and not host.startswith("/") and "," not in host + port:
            del options["host"]
            options.pop("port", None)
        else:
            if port and "," not in port:
                # To libpq one port is that of all hosts; SQLAlchemy wants one for each.
                options["port"] = ",".join([port] * (host.count(",") + 1))
            host = port = ""
        address = sa.URL.create(
            "postgresql+psycopg",
            username=options.pop("user", None),
            password=options.pop("password", None),
            host=host or None,
            port=int(port) if port else None,
            database=options.pop("dbname", None),
            query=options,
        )
        address.get_dialect()().create_connect_args(address)
    except (psycopg.Error, sa.exc.ArgumentError, ValueError):
        raise DeclarationError(
            "this is no address that libpq can read; give postgresql://user@host:port/name, or "
            "postgresql:///name?host=/folder for a Unix socket"
        ) from None
    for name in _NUMBERS:
        given = found.get(name)
        if given is not None and re.fullmatch(r"\s*[-+]?\d{1,9}\s*", str(given)) is None:
            raise DeclarationError(f"the address has {name}={given}, which is no whole number")
    return address


def with_defaults(address: sa.URL) -> sa.URL:
    """The address with timeouts, keepalives and a name, where it does not set them itself."""
    return address.set(query={**_DEFAULTS, **address.query})


def engine_at(address: sa.URL, **options: Any) -> AsyncEngine:
    """An engine for what ``address_of`` returned, with the defaults."""
    return create_async_engine(with_defaults(address), **options)


def postgresql_engine(url: str, **options: Any) -> AsyncEngine:
    """An engine on psycopg.

    Arguments:
        url: as libpq takes it: ``postgresql://user@host:port/name``, several hosts,
            ``postgresql:///name?host=/folder`` for a Unix socket, further options as parameters.
            ``postgresql+psycopg://`` works too.
        options: passed to SQLAlchemy's ``create_async_engine``.

    Raises DeclarationError, which does not show the address: it may hold a password.
    """
    return engine_at(address_of(url), **options)


def separate_pool(engine: AsyncEngine) -> AsyncEngine:
    """An engine like this one with a pool of its own.

    A connection that is kept for long then takes none away from the application.
    """
    like = engine.sync_engine
    return AsyncEngine(sa.Engine(like.pool.recreate(), like.dialect, like.url))


def shared_by(engine: AsyncEngine) -> Shared:
    """A key for what all engines of one database and event loop share."""
    loop, url = asyncio.get_running_loop(), engine.url
    if not url.host and not url.query:
        # It names no database: ``async_creator=`` opens the connections.
        return id(loop), engine.sync_engine
    return id(loop), url.render_as_string(hide_password=False)


def single_reads(engine: AsyncEngine) -> AsyncEngine:
    """The engine for reads that are one statement each.

    A single statement needs no BEGIN and no ROLLBACK around it, unless the driver prepares it first
    and a pooler stands in between.
    """
    if engine.dialect.driver == "asyncpg":
        return engine
    return engine.execution_options(isolation_level="AUTOCOMMIT")


_first: WeakKeyDictionary[sa.Engine, asyncio.Lock] = WeakKeyDictionary()


async def ensure_first_connection(engine: AsyncEngine) -> None:
    """Wait until the engine's first connection has asked the server for its settings.

    Under asyncio another task's connection can be used before the answers are there. With an
    isolation level of its own that connection then fails when it returns to the pool.
    """
    if _knows_server(engine):
        return
    async with _first.setdefault(engine.sync_engine, asyncio.Lock()):
        if not _knows_server(engine):
            async with engine.connect():
                pass
        # Another task may have made the first connection, which may still be asking.
        until = asyncio.get_running_loop().time() + _FIRST_CONNECTION
        while not _knows_server(engine):
            if asyncio.get_running_loop().time() > until:
                return
            await asyncio.sleep(0.005)


def _knows_server(engine: AsyncEngine) -> bool:
    return getattr(engine.dialect, "default_isolation_level", None) is not None


# One life of a server's data: a copy that was promoted or restored to a point in time goes on with
# another timeline, a new server has another identifier, and a database that was loaded from a dump
# another oid.
LIFE = """(SELECT concat_ws(':', (SELECT system_identifier FROM pg_control_system()),
CASE WHEN pg_is_in_recovery()
THEN (SELECT upper(lpad(to_hex(timeline_id), 8, '0')) FROM pg_control_checkpoint())
ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
(SELECT oid FROM pg_database WHERE datname = current_database())))"""
# Where the user may not read that, as with some providers.
SHORT_LIFE = "(SELECT oid::text FROM pg_database WHERE datname = current_database())"

_DESCRIBE = sa.text(
    "SELECT current_setting('server_version_num')::int, current_setting('server_version'), "
    "has_function_privilege('pg_control_system()', 'execute') "
    "AND has_function_privilege('pg_control_checkpoint()', 'execute') "
    "AND has_function_privilege('pg_walfile_name(pg_lsn)', 'execute')"
)


async def life_of(connection: AsyncConnection) -> str:
    """The SQL that names the life of the server's data, as far as this user may read it.

    Raises DeclarationError for a server that is too old.
    """
    version, name, control = (await connection.execute(_DESCRIBE)).one()
    if version < OLDEST:
        raise DeclarationError(
            f"PostgreSQL {name} is too old: tables and event logs need PostgreSQL 13 or later, "
            "which has 64-bit transaction ids"
        )
    return LIFE if control else SHORT_LIFE
