"""A followed run: its events up to the end, without I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Unpack

from headwater.client._address import stream_url
from headwater.client._feed import check_error
from headwater.client._options import StreamOptions
from headwater.client._session import Session
from headwater.errors import ResponseError
from headwater.protocol import Message, Stop, Wait

_OK = 200


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
        """As in Session. Raises ResponseError for a lost right, and for what no run sends."""
        assert isinstance(found, Message)
        try:
            data = json.loads(found.data)
        except (ValueError, RecursionError):
            raise ResponseError(_OK, f"the data of a {found.event!r} event is not JSON") from None
        if found.event in ("error", "run", "end") and not isinstance(data, dict):
            raise ResponseError(_OK, f"the data of {found.event!r} is not a JSON object")
        if found.event == "error":
            check_error(data)
            return None
        if found.event in ("run", "end"):
            self.state = str(data.get("state"))
        return RunEvent(found.event, data, found.last_event_id)
