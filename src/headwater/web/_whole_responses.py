"""Responses that are sent at once, and the one that refuses a stream for a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headwater.delivery._stream import EVENT_STREAM_HEADERS
from headwater.protocol import Comment, encode, frame, to_json
from headwater.web.asgi import Send

Headers = Sequence[tuple[bytes, bytes]]


async def send_response(
    send: Send, status: int, headers: Headers, body: bytes = b"", *, head: bool = False
) -> None:
    """Send a whole response; its headers alone for ``head``."""
    headers = list(headers)
    # RFC 9110, 8.6: a 204 has none, and that of a 304 would be the page's.
    if status not in (204, 304) and all(name != b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def answer_nobody(send: Send) -> None:
    """Answer a client that has left: middleware such as ``BaseHTTPMiddleware`` needs an answer.

    Servers drop it. Logs and metrics in the middleware know the status from nginx.
    """
    await send_response(send, 499, ())


class StreamRefusedError(Exception):
    """A stream cannot be opened just now. Its client comes back by itself.

    WHATWG HTML, 9.2.3: any status but 200 ends an EventSource for good. So the answer is 200, with
    the time to come back, the reason as a comment, and the end of the body.

    Attributes:
        retry: milliseconds until the client is to come back.
        status: is sent as an ``error`` event too, with the ``detail``.
    """

    def __init__(
        self, reason: str, retry: int, status: int | None = None, detail: str | None = None
    ) -> None:
        super().__init__(reason)
        self.retry = retry
        self.status = status
        self.detail = detail


async def refuse_stream(send: Send, refused: StreamRefusedError, *, head: bool) -> None:
    """Answer a stream that cannot be opened just now; with headers alone for ``head``."""
    seconds = max(1, -(-refused.retry // 1000))
    headers = (*EVENT_STREAM_HEADERS, (b"retry-after", b"%d" % seconds))
    body = b"retry: %d\n" % refused.retry + encode(Comment(str(refused)))
    if refused.status is not None:
        said: dict[str, Any] = {"status": refused.status}
        said |= {} if refused.detail is None else {"detail": refused.detail}
        body += frame("error", None, to_json(said).encode())
    await send_response(send, 200, headers, body, head=head)
