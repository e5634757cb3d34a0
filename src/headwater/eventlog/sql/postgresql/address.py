"""The engine of a log that has a PostgreSQL address of its own."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql.postgresql.connections import postgresql_engine

__all__ = ["engine_of"]

# Appends take one connection, and three more while topics are held; the rest is for reads.
POOL, OVERFLOW = 5, 10


def engine_of(url: str) -> AsyncEngine:
    """As ``postgresql_engine``, with a pool for a log's reads and appends."""
    return postgresql_engine(url, pool_size=POOL, max_overflow=OVERFLOW)
