"""An ASGI application's lifespan, for a test without a server."""

from __future__ import annotations

import asyncio
from typing import Any, Self

__all__ = ["Lifespan"]

_WITHIN = 30.0


class Lifespan:
    """Starts the application as a server does, and ends it with the block.

    Attributes:
        state: what the application put there for its requests.
    """

    def __init__(self, app: Any) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._ends = asyncio.Event()
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._began = False

    async def __aenter__(self) -> Self:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self._task = asyncio.create_task(self._app(scope, self._receive, self._said.put))
        said = await self._answer()
        if said is not None and said["type"] == "lifespan.startup.failed":
            raise AssertionError(f"the application did not start: {said.get('message', '')}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ends.set()
        said = await self._answer()
        if said is not None and said["type"] == "lifespan.shutdown.failed":
            raise AssertionError(f"the application did not end well: {said.get('message', '')}")

    async def _answer(self) -> dict[str, Any] | None:
        """What the application says next; None from one that has no lifespan, or no more."""
        said = asyncio.ensure_future(self._said.get())
        try:
            await asyncio.wait(
                {said, self._task}, timeout=_WITHIN, return_when=asyncio.FIRST_COMPLETED
            )
            if said.done():
                return said.result()
        finally:
            said.cancel()
        if not self._task.done():
            self._task.cancel()
            raise AssertionError(f"the application's lifespan says nothing for {_WITHIN:g} s")
        # By the ASGI specification an application that raises at the start has no lifespan.
        return None

    async def _receive(self) -> dict[str, Any]:
        if not self._began:
            self._began = True
            return {"type": "lifespan.startup"}
        await self._ends.wait()
        return {"type": "lifespan.shutdown"}
