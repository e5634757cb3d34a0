"""What ``headwater tail`` shows of a run, and the exit code that says how it ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headwater.cli.lines import json_line, plain_text, text_line
from headwater.cli.output import put
from headwater.cli.remote import say

if TYPE_CHECKING:
    from headwater.client import RunEvent

EXIT_CODES = {"done": 0, "failed": 3, "cancelled": 4, "lost": 5}


class RunOutput:
    """Prints a run: its text as it comes, other events in lines of their own.

    Attributes:
        state: how it ended; None before that.
    """

    def __init__(self, as_json: bool) -> None:
        self.state: str | None = None
        self._as_json = as_json
        self._in_line = False

    def event(self, event: RunEvent) -> None:
        data = event.data
        if event.name == "end":
            self.state = data["state"]
        if self._as_json:
            put(json_line({"event": event.name, "data": data}))
        elif event.name == "delta":
            text = plain_text(data["text"])
            put(text, end="")
            self._in_line = not text.endswith("\n") if text else self._in_line
        elif event.name in ("run", "end"):
            self._line(None)
        elif event.name in ("restart", "reset"):
            self._line(None)
            say("the output begins again: what was shown before does not count")
        else:
            said = text_line(data) if isinstance(data, dict) else json.dumps(data)
            self._line(f"{event.name} {said}")

    def _line(self, text: str | None) -> None:
        if self._in_line:
            put("")
        self._in_line = False
        if text is not None:
            put(text)
