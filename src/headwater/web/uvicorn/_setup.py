"""What all connections of one server have in common, as uvicorn gives it to each protocol.

uvicorn documents that ``http=`` takes a protocol, but not what a protocol is given. These names are
used; where one is missing its default holds:

=================================  =================================================
``config.loaded_app``              ``config.app``, without uvicorn's own middleware
``config.root_path``               ``""``
``config.asgi_version``            ``"3.0"``
``config.ws_protocol_class``       None: no WebSockets
``config.limit_concurrency``       None: no limit
``config.timeout_keep_alive``      5 s, as uvicorn documents it
``config.proxy_headers``           True, as uvicorn documents it
``config.forwarded_allow_ips``     ``"127.0.0.1"``, as uvicorn documents it
``config.access_log``              True, as uvicorn documents it
``server_state.connections``       a set of ours: uvicorn does not wait for connections
``server_state.tasks``             a set of ours: uvicorn does not wait for requests
``server_state.default_headers``   none
``server_state.total_requests``    not counted: ``--limit-max-requests`` does nothing
=================================  =================================================
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from headwater.web._addresses import Proxies
from headwater.web.uvicorn._connections import Connections
from headwater.web.uvicorn._limits import ConnectionCounters, Limits
from headwater.web.uvicorn._refusals import Refusal, too_many

Answer = Callable[[Any], Coroutine[Any, Any, None]]


class Setup:
    """The application of a server, its options and its connections.

    Attributes:
        state: the state that the application's lifespan has made for its requests.
        websocket: makes a protocol for WebSockets, or None.
        access_log: the logger for requests, or None.
        protocols: the connections that the server closes when it ends.
    """

    def __init__(
        self,
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        *,
        limits: Limits,
        counters: ConnectionCounters,
    ) -> None:
        self._app: Any = getattr(config, "loaded_app", None) or config.app
        self.root_path: str = getattr(config, "root_path", "")
        self.asgi = {"version": getattr(config, "asgi_version", "3.0"), "spec_version": "2.3"}
        self.state = app_state
        self._most: int | None = getattr(config, "limit_concurrency", None)
        websocket = getattr(config, "ws_protocol_class", None)
        self.websocket: Any = websocket and partial(
            websocket, config=config, server_state=server_state, app_state=app_state
        )
        logger = logging.getLogger("uvicorn.access")
        logs = getattr(config, "access_log", True) and logger.hasHandlers()
        self.access_log = logger if logs else None
        self._server = server_state
        self.protocols: set[Any] = getattr(server_state, "connections", set())
        self._tasks: set[asyncio.Task[None]] = getattr(server_state, "tasks", set())
        self._loop = loop
        self._limits = limits
        trusts = getattr(config, "proxy_headers", True)
        self.connections = Connections(
            limits,
            counters,
            Proxies(getattr(config, "forwarded_allow_ips", "127.0.0.1") if trusts else None),
            getattr(config, "timeout_keep_alive", 5),
            loop,
        )

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer, such as the date."""
        found: list[tuple[bytes, bytes]] = getattr(self._server, "default_headers", [])
        return found

    def count_request(self) -> None:
        """A request was answered."""
        if hasattr(self._server, "total_requests"):
            self._server.total_requests += 1

    def run(self, answer: Answer, path: str, spare: str | None) -> None:
        """Answer a request.

        Arguments:
            answer: lets an application answer it.
            spare: why its connection has no place; then only some paths are answered.
        """
        app = self._app
        if spare is not None and path not in self._limits.always:
            app = too_many(spare)
        elif self._most is not None and max(len(self.protocols), len(self._tasks)) >= self._most:
            app = Refusal(503, "This server has as many requests as it may (limit_concurrency).")
        task = self._loop.create_task(answer(app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
