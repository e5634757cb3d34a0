"""Headwater's own HTTP protocol for uvicorn.

``uvicorn --http headwater.web.uvicorn:Protocol app:app`` offers each stream its connection: a live
stream then writes to it directly, and what the server kept for the request is freed. It also bounds
what clients may send, how slowly, and on how many connections.

It stands on asyncio and httptools. Of uvicorn it needs only what uvicorn gives to a protocol: the
table in `setup` lists it.
"""

from headwater.web.uvicorn._limits import ConnectionCounters, Limits
from headwater.web.uvicorn._protocol import Protocol

__all__ = ["ConnectionCounters", "Limits", "Protocol"]
