"""Batches of many callers, sent to the server as one.

The server writes each batch to its disk and waits for that, one after the other. So what is asked
for while some are on their way goes together with the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from headwater.errors import SourceUnavailableError
from headwater.eventlog.nats.connection import NAME
from headwater.eventlog.nats.stream import ApiError

__all__ = ["BATCH_BYTES", "MAX_BATCH", "Batches", "Message"]

# Messages that the server stores as a whole.
MAX_BATCH = 1000
# The server holds a batch in memory until it is whole.
BATCH_BYTES = 64 * 1024 * 1024
# On their way at once: while the disk has one, the next one travels.
LANES = 2

Message = tuple[str, bytes, Mapping[str, str]]
Asked = tuple[Sequence[Message], "asyncio.Future[int]"]


class Batches:
    """Batches without a condition: none of them can be refused for what another one holds.

    Args:
        store: stores messages as a whole or not at all; the sequence of the last one.
    """

    def __init__(self, store: Callable[[Sequence[Message]], Awaitable[int]]) -> None:
        self._store = store
        self._waiting: deque[Asked] = deque()
        self._lanes: set[asyncio.Task[None]] = set()

    async def put(self, messages: Sequence[Message]) -> int:
        """Store them next to each other; the sequence of the last one.

        A caller that is cancelled may still have stored them. Raises what ``store`` raises.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, done))
        if len(self._lanes) < LANES:
            self._lanes.add(asyncio.create_task(self._send(), name=f"{NAME}: batches"))
        return await done

    async def _send(self) -> None:
        group: list[Asked] = []
        try:
            while group := self._next_group():
                await self._put_all(group)
        finally:
            self._lanes -= {asyncio.current_task()}
            for _, done in group:
                done.cancel()  # nothing but the end of the loop leaves any

    async def _put_all(self, group: Sequence[Asked]) -> None:
        try:
            last = await self._store([one for messages, _ in group for one in messages])
        except ApiError as error:
            if len(group) == 1:
                _refuse(group, error)
                return
            # Nothing was stored. Each by itself hears its own reason, and some may do.
            for one in group:
                await self._put_all([one])
        except Exception as error:
            _refuse(group, error)
        else:
            for messages, done in reversed(group):
                if not done.done():
                    done.set_result(last)
                last -= len(messages)

    def _next_group(self) -> list[Asked]:
        group: list[Asked] = []
        count = size = 0
        while self._waiting:
            messages, done = self._waiting[0]
            count += len(messages)
            size += sum(len(payload) for _, payload, _ in messages)
            if group and (count > MAX_BATCH or size > BATCH_BYTES):
                break
            self._waiting.popleft()
            if done.cancelled():
                count -= len(messages)
            else:
                group.append((messages, done))
        return group


def _refuse(group: Sequence[Asked], error: Exception) -> None:
    """Tell each caller, with an error of its own: one collects the traceback of who raises it."""
    for _, done in group:
        if done.done():
            continue
        own = error
        if isinstance(error, SourceUnavailableError):
            own = SourceUnavailableError(error.source, error.detail)
            own.__cause__ = error.__cause__
        done.set_exception(own)
