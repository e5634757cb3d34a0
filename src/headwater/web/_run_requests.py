"""The body, up to a limit, and the key of a request that starts a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from headwater.errors import UsageError
from headwater.eventlog import EventLog
from headwater.eventlog._record import KEY
from headwater.runs._writer import INPUT_ENVELOPE, plain_json
from headwater.web.asgi import Receive
from headwater.web.problems import Problem


class RunBody:
    """Reads the body of a request up to a limit, and keeps it."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._over = False

    async def receive(self) -> MutableMapping[str, Any]:
        """As ASGI's. Raises 413, and 400 if the client leaves before the end of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            part = message.get("body", b"")
            self._size += len(part)
            if self._size > self._most:
                raise Problem(413, f"The body has more than {self._most} bytes, which are allowed.")
            self._parts.append(part)
            self._over = not message.get("more_body", False)
        elif not self._over:
            raise Problem(400, "The connection ended before the body did.")
        return message

    async def whole(self) -> bytes:
        """The whole body. Raises as ``receive`` does."""
        while not self._over:
            await self.receive()
        return b"".join(self._parts)


def key_of(scope: Mapping[str, Any]) -> tuple[str | None, list[dict[str, Any]]]:
    """The ``Idempotency-Key`` of a request, and what is wrong with it in pydantic's form."""
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            text = value.decode("latin-1")
            if KEY.fullmatch(text):
                return text, []
            message = "write 1 to 200 printable ASCII characters, none of them a space"
            where = ("header", "Idempotency-Key")
            return None, [{"loc": where, "msg": message, "type": "value_error"}]
    return None, []


def storable(value: Any, log: EventLog) -> Any:
    """The value of a body, if the log can store it as the input of a run. Raises 422."""
    try:
        return plain_json(value, log, "the body", "send less", INPUT_ENVELOPE)[0]
    except UsageError as error:
        raise Problem(422, str(error)) from error


def parsed_json(body: bytes, scope: Mapping[str, Any]) -> Any:
    """The body as JSON; None if it is empty, or a form. Raises 422 for what only claims to be."""
    try:
        return json.loads(body) if body else None
    except (ValueError, RecursionError) as error:
        if b"json" in dict(scope["headers"]).get(b"content-type", b"").lower():
            raise Problem(422, f"The body is not JSON: {error}") from None
        return None
