"""A followed run: its events up to the end, without I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Unpack

from headwater.client._address import stream_url
from headwater.client._feed import check_error, object_of
from headwater.client._options import StreamOptions
from headwater.client._session import Session
from headwater.errors import ResponseError
from headwater.protocol import Message, Stop, Wait

_OK = 200
# The text that each of these events has.
_MEMBERS = {"run": "state", "end": "state", "delta": "text"}


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event of a run.

    Attributes:
        name: ``run`` (the state of the run), ``delta`` (``{"text": …}``), the application's own,
            ``restart`` and ``reset`` (discard the output so far, it begins again), ``end``.
        data: a JSON value.
        position: ``last_event_id=position`` goes on after this event.
    """

    name: str
    data: Any
    position: str


class RunSession(Session[RunEvent]):
    """The state of one followed run. It ends with the run.

    Attributes:
        state: the last state that the server sent; None before the first.
    """

    def __init__(self, url: str, **options: Unpack[StreamOptions]) -> None:
        super().__init__(url, **options)
        self.url = stream_url(self.url)
        self.state: str | None = None
        self._has_end = False

    def feed(self, chunk: bytes) -> None:
        super().feed(chunk)
        self._has_end = self._has_end or any(found.event == "end" for found, _ in self._queue)

    def ended(self, *, now: float) -> Wait | Stop:
        return Stop(None) if self._has_end else super().ended(now=now)

    def lost(self, cause: str) -> Wait | Stop:
        return Stop(None) if self._has_end else super().lost(cause)

    def read(self, found: Any) -> RunEvent | None:
        event = run_event(found)
        if event is not None and event.name in ("run", "end"):
            self.state = event.data["state"]
        return event


def run_event(message: Message) -> RunEvent | None:
    """The event of a run; None for an error after which the client reconnects.

    Raises ResponseError for a lost right, and for what no run sends.
    """
    if message.event == "error":
        check_error(object_of(message))
        return None
    try:
        data = json.loads(message.data)
    except (ValueError, RecursionError):
        raise ResponseError(_OK, f"the data of a {message.event!r} event is not JSON") from None
    member = _MEMBERS.get(message.event)
    if member and not (isinstance(data, dict) and isinstance(data.get(member), str)):
        raise ResponseError(
            _OK,
            f"the data of a {message.event!r} event is not a JSON object with a text {member!r}",
        )
    return RunEvent(message.event, data, message.last_event_id)
