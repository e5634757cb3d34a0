"""One process as the holder of a relay: it takes the relay, renews its lease, and writes."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from headwater.errors import SourceUnavailableError
from headwater.relay._ledger import Ledger, State

logger = logging.getLogger("headwater.relay")

# Seconds that the end of a hold waits for the database.
_PATIENCE = 2.0


class Holder:
    """One process that holds a relay, or waits to hold it.

    Attributes:
        stored: what the relay's row has, while this process holds the relay.
    """

    def __init__(self, ledger: Ledger, lease: float) -> None:
        self.stored: State | None = None
        self._ledger = ledger
        self._lease = lease
        self._me = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._fence = 0
        # When this process was last known to be the holder.
        self._confirmed = 0.0
        # Fence and beat of the other process that holds the relay, and since when they are so.
        self._seen: tuple[int, int] | None = None
        self._since = 0.0

    async def take(self, state: State) -> State | None:
        """Become the holder, and return the row. None: another process is the holder."""
        now = time.monotonic()
        if state.holder not in (None, self._me):
            if self._seen is None:
                logger.info("relay %s waits: %s holds it", state.name, state.holder)
            if self._seen != (state.fence, state.beat):
                self._seen, self._since = (state.fence, state.beat), now
            if now - self._since < self._lease:
                return None
        taken = await self._ledger.take(state, self._me)
        if taken is not None:
            self._fence, self._confirmed, self._seen = taken.fence, now, None
            self.stored = taken
        return taken

    @asynccontextmanager
    async def alive(self, wake: Callable[[], None]) -> AsyncIterator[asyncio.Task[None]]:
        """Renew the lease regularly while the block runs.

        The task ends with LostError when another process has taken over. It calls ``wake`` then.
        """
        ended = asyncio.Event()
        beats = asyncio.create_task(self._beats(ended, wake), name="headwater relay: beats")
        try:
            yield beats
        finally:
            # Not cancelled at once: that costs a running statement its connection.
            ended.set()
            await asyncio.wait([beats], timeout=_PATIENCE)
            beats.cancel()
            await asyncio.wait([beats])
            if not beats.cancelled():
                beats.exception()  # whoever runs the block got this error already

    async def _beats(self, ended: asyncio.Event, wake: Callable[[], None]) -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3):
                    await ended.wait()
                    return
            if time.monotonic() - self._confirmed < self._lease / 4:
                continue
            try:
                await self.beat()
            except SourceUnavailableError:
                continue  # the relay itself notices this too
            except BaseException:
                wake()
                raise

    async def beat(self) -> None:
        """Renew the lease once. Raises LostError."""
        now = time.monotonic()
        await self._ledger.write(self._fence, {})
        self._confirmed = now

    async def confirm(self) -> None:
        """Renew the lease if it may have run out, as while the process stood still.

        Raises LostError.
        """
        if time.monotonic() - self._confirmed > self._lease:
            await self.beat()

    async def save(self, state: State) -> State:
        """Write the relay's place and the next append. Raises LostError."""
        now = time.monotonic()
        await self._ledger.write(state.fence, state.values())
        self._confirmed, self.stored = now, state
        return state

    async def release(self) -> None:
        """Release the relay for the next process, if the database answers soon."""
        fence, self._fence = self._fence, 0
        if fence:
            # Without this write the next process waits for the lease. A cancelled task writes too.
            with suppress(Exception):
                async with asyncio.timeout(_PATIENCE):
                    await asyncio.shield(self._ledger.write(fence, {"holder": None}))
