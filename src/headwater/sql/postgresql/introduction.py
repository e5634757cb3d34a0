"""An engine's first connection, made alone.

SQLAlchemy asks the server for its settings on an engine's first connection. Under asyncio another
task's connection can be used before the answers are there; with an isolation level of its own it
then fails when it is given back.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["introduce"]

# Seconds that the server may take to answer a few questions.
_PATIENCE = 5.0

_first: WeakKeyDictionary[sa.Engine, asyncio.Lock] = WeakKeyDictionary()


async def introduce(engine: AsyncEngine) -> None:
    """Wait until the engine knows its server."""
    if getattr(engine.dialect, "default_isolation_level", None) is not None:
        return
    async with _first.setdefault(engine.sync_engine, asyncio.Lock()):
        if getattr(engine.dialect, "default_isolation_level", None) is None:
            async with engine.connect():
                pass
        # Somebody else's connection may have been the first, and may still be asking.
        until = asyncio.get_running_loop().time() + _PATIENCE
        while getattr(engine.dialect, "default_isolation_level", None) is None:
            if asyncio.get_running_loop().time() > until:
                return
            await asyncio.sleep(0.005)
