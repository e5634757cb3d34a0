"""The event loop that a connection or a reader of a log belongs to."""

from __future__ import annotations

import asyncio

from headwater.errors import UsageError


def in_use(name: str) -> UsageError:
    """The error for a log that another event loop uses."""
    return UsageError(
        f"{name} is in use by another event loop: open a log for this one with another()"
    )


class Home:
    """Notes the event loop in which something was opened.

    A log may be used in one event loop after another, as by ``asyncio.run`` twice. What it opened
    in the first one ended with that.

    Arguments:
        name: of the log, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None

    def moved(self) -> bool:
        """Whether this event loop is not the one of the last call, or there was none.

        Raises UsageError while the other one is open.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return False
        if self._loop is not None and not self._loop.is_closed():
            raise in_use(self._name)
        self._loop = loop
        return True
