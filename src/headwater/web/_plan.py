"""A plan: what an endpoint of ours returns, while its answer is made after FastAPI has finished.

A plan is a response that sends nothing. FastAPI takes it for the answer, closes the dependencies of
the request and returns; the route then answers by itself. So no database session is open while a
stream waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from fastapi import Response

from headwater.web._responders import PLAN


class Plan(Response):
    """Sends nothing, and leaves itself in the scope.

    Arguments:
        result: the endpoint's result.
        dependencies: the response that dependencies have written to. FastAPI drops it when an
            endpoint returns a response of its own.
    """

    def __init__(self, result: Any, dependencies: Response) -> None:
        super().__init__()
        self.result = result
        self._dependencies = dependencies

    @property
    def dependency_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """The headers and cookies that dependencies have set, and a route class of the user's."""
        given = self._dependencies.raw_headers
        if len(self.raw_headers) > 1:
            # A route's `get_route_handler` may set headers on what it takes for the answer.
            names = {name for name, _ in self.raw_headers if name != b"set-cookie"}
            given = [pair for pair in given if pair[0] not in names] + self.raw_headers
        return [pair for pair in given if pair[0] != b"content-length"]

    @property
    def dependency_status(self) -> int | None:
        """The status that a dependency has set."""
        # FastAPI gives dependencies a response without one.
        return cast("int | None", self._dependencies.status_code)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope[PLAN] = self
