"""A plan: what an endpoint of ours returns, while its answer is made after FastAPI has finished.

A plan is a response that sends nothing. FastAPI takes it for the answer, closes the dependencies of
the request and returns; the route then answers by itself. So no database session is open while a
stream waits.
"""

from __future__ import annotations

from typing import Any

from fastapi import Response

from headwater.web._responders import PLAN, Planned


class Plan(Response):
    """Sends nothing, and leaves what it has as ``Planned`` in the scope.

    Arguments:
        result: the endpoint's result.
        dependencies: the response that dependencies have written to. FastAPI drops it when an
            endpoint returns a response of its own.
    """

    def __init__(self, result: Any, dependencies: Response) -> None:
        super().__init__()
        self._result = result
        self._dependencies = dependencies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = self._dependencies
        headers = given.raw_headers
        if len(self.raw_headers) > 1:
            # A route's `get_route_handler` may set headers on what it takes for the answer.
            names = {name for name, _ in self.raw_headers if name != b"set-cookie"}
            headers = [pair for pair in headers if pair[0] not in names] + self.raw_headers
        headers = [pair for pair in headers if pair[0] != b"content-length"]
        # FastAPI gives dependencies a response without a status.
        scope[PLAN] = Planned(self._result, headers, given.status_code, self.background)
