"""Responses that are sent at once, and the one that refuses a stream for a while."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.delivery._stream import EVENT_STREAM_HEADERS
from headwater.protocol import Comment, encode, frame, to_json
from headwater.web.asgi import Send

__all__ = ["Headers", "refuse_stream", "retry_after", "send_response"]

Headers = Sequence[tuple[bytes, bytes]]


async def send_response(
    send: Send, status: int, headers: Headers, body: bytes = b"", *, head: bool = False
) -> None:
    """Send a whole response; its headers alone for ``head``."""
    length = (b"content-length", b"%d" % len(body))
    has_length = status != 304 and all(name != b"content-length" for name, _ in headers)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, *([length] if has_length else [])],
        }
    )
    await send({"type": "http.response.body", "body": b"" if head else body})


def retry_after(retry: int) -> tuple[bytes, bytes]:
    """The header for so many milliseconds."""
    return b"retry-after", b"%d" % max(1, -(-retry // 1000))


async def refuse_stream(
    send: Send,
    reason: str,
    retry: int,
    *,
    head: bool = False,
    status: int | None = None,
    detail: str | None = None,
) -> None:
    """Answer a stream that cannot be opened just now, so that its client comes back by itself.

    WHATWG HTML, 9.2.3: any status but 200 ends an EventSource for good. So it is 200, with the
    time to come back, the reason as a comment, and the end of the body.

    Arguments:
        retry: milliseconds until the client is to come back.
        status: is sent as an ``error`` event too, with the ``detail``.
    """
    headers = (*EVENT_STREAM_HEADERS, retry_after(retry))
    body = b"retry: %d\n" % retry + encode(Comment(reason))
    if status is not None:
        said = {"status": status} | ({} if detail is None else {"detail": detail})
        body += frame("error", None, to_json(said).encode())
    await send_response(send, 200, headers, body, head=head)
