"""Read an event stream in a test, as a browser does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable

from headwater.protocol._decoder import Decoder, Message


def parse_events(stream: bytes) -> list[Message]:
    """The messages in the bytes of a stream, without one that is cut off at the end.

    >>> [message.data for message in parse_events(b"id: 7\\ndata: hello\\n\\ndata: half")]
    ['hello']
    """
    return Decoder().feed(stream)


async def collect(
    chunks: AsyncIterable[bytes],
    *,
    count: int | None = None,
    until: Callable[[Message], bool] | None = None,
    timeout: float = 5.0,
) -> list[Message]:
    """Messages of a running stream, such as ``response.aiter_bytes()`` of httpx.

    Stops after ``count`` messages, after the first one for which ``until`` is true, or, without
    both, at the end of the stream. It leaves the stream open. If the stream ends before that, or
    ``timeout`` seconds pass, it raises AssertionError, which says what has come.
    """
    decoder, messages = Decoder(), list[Message]()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in chunks:
                for message in decoder.feed(chunk):
                    messages.append(message)
                    if (until is not None and until(message)) or len(messages) == count:
                        return messages
    except TimeoutError:
        raise AssertionError(f"after {timeout} s: {_told(messages)}") from None
    if count is not None or until is not None:
        raise AssertionError(f"the stream ended: {_told(messages)}")
    return messages


def _told(messages: list[Message]) -> str:
    last = f", the last of them {messages[-1]!r}" if messages else ""
    return f"{len(messages)} messages had come{last}"
