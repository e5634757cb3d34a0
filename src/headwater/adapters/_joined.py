"""Joins small chunks of a language model, so that not each of them costs an append to the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any

from headwater.errors import UsageError

# Seconds for which chunks are joined, as runs do for their deltas.
_EVERY = 0.05
# Chunks that wait for the run. Then their producer waits.
_WAITING = 100
# Characters of a joined chunk.
_LONGEST = 4096

_END = object()


async def joined(
    chunks: AsyncIterable[Any], kinds: Mapping[str, str]
) -> AsyncIterator[dict[str, Any]]:
    """The chunks as JSON. Text chunks of one part that come within 50 ms are joined into one.

    Arguments:
        kinds: the types of chunks that are joined, and for each the member that has its text.

    Raises UsageError for a value that is not a chunk.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Any] = asyncio.Queue(_WAITING)
    task = asyncio.create_task(_pump(chunks, queue))
    held: dict[str, Any] | None = None
    due = 0.0
    try:
        while True:
            try:
                async with asyncio.timeout_at(None if held is None else due):
                    found = await queue.get()
            except TimeoutError:
                assert held is not None
                yield held
                held = None
                continue
            chunk = None if found is _END else _plain(found)
            text = "" if chunk is None else kinds.get(chunk["type"], "")
            if chunk is not None and not isinstance(chunk.get(text), str):
                text = ""  # it is passed on as it is
            if held is not None:
                if text and chunk and loop.time() < due and _join(held, chunk, text):
                    continue
                yield held
                held = None
            if chunk is None:
                break
            if text:
                held, due = chunk, loop.time() + _EVERY
            else:
                yield chunk
        await task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _pump(chunks: AsyncIterable[Any], queue: asyncio.Queue[Any]) -> None:
    """Read all chunks in one task, because some libraries keep a cancel scope open meanwhile."""
    try:
        async for chunk in chunks:
            await queue.put(chunk)
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
        if (task := asyncio.current_task()) is None or not task.cancelling():
            await queue.put(_END)


def _join(held: dict[str, Any], chunk: dict[str, Any], text: str) -> bool:
    """Add a chunk's text to the chunk that waits. False if they differ in anything else."""
    if len(held[text]) > _LONGEST or {**held, text: ""} != {**chunk, text: ""}:
        return False
    held[text] += chunk[text]
    return True


def _plain(chunk: Any) -> dict[str, Any]:
    """A chunk as JSON. Raises UsageError."""
    dump = getattr(chunk, "model_dump", None)
    if dump is not None:
        chunk = dump(mode="json", by_alias=True, exclude_none=True)
    if not isinstance(chunk, Mapping) or not isinstance(chunk.get("type"), str):
        raise UsageError(f"{chunk!r}: a chunk is an object with a `type`, or a pydantic model")
    return dict(chunk)
