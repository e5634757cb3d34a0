"""Which MCP session a request belongs to, for the event stores that are called while it is served.

The SDK's own task of a session begins in the request that opens it, so it inherits that request's
context variables. Later requests name their session by a header.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.server.streamable_http import StreamableHTTPServerTransport as Transport

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_HEADER = MCP_SESSION_ID_HEADER.lower().encode()


class _Key:
    """Stands for one session while its task or a request of it runs."""

    __slots__ = ("__weakref__",)


_key: ContextVar[_Key | None] = ContextVar("headwater_mcp_session", default=None)


class SessionScope:
    """ASGI middleware that lets each event store below it know the session that calls.

    ``app.add_middleware(SessionScope)``. Always add it. A store of your own that awaits another
    store in another task does not work without it.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        # A session's own task keeps its key, so the keys of sessions that ended disappear.
        self._keys: WeakValueDictionary[bytes, _Key] = WeakValueDictionary()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        named = next((value for name, value in scope["headers"] if name == _HEADER), None)
        key = _Key() if named is None else self._keys.get(named, _Key())

        async def opening(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in message.get("headers", ()):
                    if name.lower() == _HEADER:
                        self._keys[value] = key
            await send(message)

        token = _key.set(key)
        try:
            await self._app(scope, receive, opening if named is None else send)
        finally:
            _key.reset(token)


def session_key() -> object | None:
    """Returns an object that stands for the session that calls; None if it is not known.

    Without ``SessionScope`` it is the transport on the stack, whose method awaits the store. The
    SDK tells a store in no other way which session calls.
    """
    key = _key.get()
    if key is not None:
        return key
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Transport):
            return caller
        frame = frame.f_back
    return None
