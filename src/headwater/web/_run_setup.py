"""Declarations of runs in every framework: their checks, and their lifespan."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.runs import Busy, Runs
from headwater.web._live import Settings
from headwater.web.problems import Problem

__all__ = [
    "OnDisconnect", "check_declaration", "checked_owner", "declare_kind", "lifespan_of_runs",
]  # fmt: skip

logger = logging.getLogger("headwater.web")

OnDisconnect = Literal["continue", "cancel"]

# For each kind of runs, the name of the function that produces them.
_declared: WeakKeyDictionary[Runs, dict[str, str]] = WeakKeyDictionary()


def declare_kind(where: str, runs: Runs, kind: str, call: Any) -> None:
    """Note which function produces the runs of a kind. Raises DeclarationError for a second one.

    An application that is made twice, as by tests, declares the same function again.
    """
    named = call if hasattr(call, "__qualname__") else type(call)
    name = f"{named.__module__}.{named.__qualname__}"
    known = _declared.setdefault(runs, {}).setdefault(kind, name)
    if known != name:
        raise DeclarationError(
            f"{where}: {known} and {name} would share runs and keys: give one of them "
            "a name= of its own"
        )


def checked_owner(owner: Any) -> str:
    """The owner's id as a text. Raises 401 for None."""
    if owner is None:
        raise Problem(401, "Sign in first.")
    return str(owner)


def check_declaration(where: str, runs: object, busy: object, on_disconnect: object) -> None:
    """Raises DeclarationError for options that cannot work."""
    if not isinstance(runs, Runs):
        raise DeclarationError(f"{where}: {runs!r}: the second argument must be a Runs(...)")
    if busy not in get_args(Busy):
        raise DeclarationError(
            f"{where}: busy={busy!r}: write 'reject', 'cancel', 'queue' or 'allow'"
        )
    if on_disconnect not in get_args(OnDisconnect):
        raise DeclarationError(
            f"{where}: on_disconnect={on_disconnect!r}: write 'continue' or 'cancel'"
        )


@asynccontextmanager
async def lifespan_of_runs(runs: Sequence[Runs], settings: Settings) -> AsyncIterator[None]:
    """Watch runs while an application runs, and end those of this process when it ends."""
    if not runs:
        yield
        return
    streams = settings.live().hub.streams
    for each in runs:
        try:
            await each.start()
        except SourceUnavailableError as error:
            logger.warning("runs cannot be watched yet: %s", error)

    def stop() -> None:
        # At once, so that followers in this process get the `end` before their streams close.
        for each in runs:
            streams.run(each.stop(), "ending the runs of this process")

    streams.on_drain.add(stop)
    try:
        yield
    finally:
        streams.on_drain.discard(stop)
        for each in runs:
            await each.leave()
