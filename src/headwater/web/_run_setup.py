"""Declarations of runs in every framework: their checks, and their lifespan."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.runs import Busy, Runs
from headwater.web._live import Settings
from headwater.web.asgi import Scope
from headwater.web.problems import Problem

logger = logging.getLogger("headwater.web")

OnDisconnect = Literal["continue", "cancel"]

# In a path: its name, and what it may be.
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")

# For each kind of runs, the name of the function that produces them.
_declared: WeakKeyDictionary[Runs, dict[str, str]] = WeakKeyDictionary()


@dataclass(eq=False, slots=True)
class RunDeclaration:
    """The declaration of one kind of runs, which its routes share.

    Raises DeclarationError for options that cannot work.

    Attributes:
        runs: where they are.
        kind: what they are kept under, with parameters as in the path.
        group: the field of the body that names a run's group, or None.
        busy: what happens to a new run while its group has an active one: see ``Runs.create``.
        max_body: bytes of a request's body, at most.
        on_disconnect: whether a run goes on when its last client in this process has left.
        start: puts a run's id into a queue. None: the function runs in this process.
        open: how many streams each run has in this process.
    """

    runs: Runs
    kind: str
    group: str | None
    busy: Busy
    max_body: int
    on_disconnect: OnDisconnect
    start: Callable[[str], Any] | None
    open: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        where = f"run {self.kind!r}"
        if not isinstance(self.runs, Runs):
            raise DeclarationError(f"{where}: {self.runs!r}: the second argument must be Runs(...)")
        if self.busy not in get_args(Busy):
            raise DeclarationError(
                f"{where}: busy={self.busy!r}: write 'reject', 'cancel', 'queue' or 'allow'"
            )
        if self.on_disconnect not in get_args(OnDisconnect):
            raise DeclarationError(
                f"{where}: on_disconnect={self.on_disconnect!r}: write 'continue' or 'cancel'"
            )

    def claim(self, call: Callable[..., Any]) -> None:
        """Let no other function produce the runs of this kind. Raises DeclarationError."""
        named = call if hasattr(call, "__qualname__") else type(call)
        name = f"{named.__module__}.{named.__qualname__}"
        # An application that is made twice, as by tests, declares the same function again.
        known = _declared.setdefault(self.runs, {}).setdefault(self.kind, name)
        if known != name:
            raise DeclarationError(
                f"run {self.kind!r}: {known} and {name} would share runs and keys: give one of "
                "them a name= of its own"
            )

    def kind_in(self, scope: Scope) -> str:
        """What the runs of a request are kept under: ``kind`` with the values of its path.

        A guard decides about those values, so they must not lead to the runs of others.
        """
        given = {name: str(value) for name, value in scope.get("path_params", {}).items()}
        given.pop("run_id", None)
        kind = _PARAMETER.sub(lambda found: given.pop(found[1], found[0]), self.kind)
        return f"{kind}?{urlencode(sorted(given.items()))}" if given else kind


def checked_owner(owner: Any) -> str:
    """The owner's id as a text. Raises 401 for None."""
    if owner is None:
        raise Problem(401, "Sign in first.")
    return str(owner)


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
