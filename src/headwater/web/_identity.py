"""The subjects of a request: the user, session or team on whose behalf a guard says it is made."""

from __future__ import annotations

from collections.abc import MutableMapping
from datetime import datetime
from typing import Any, Protocol

from headwater.errors import UsageError

_SUBJECTS = "headwater.subjects"
_EXPIRES = "headwater.expires"


class HasScope(Protocol):
    """A request of any framework on ASGI."""

    @property
    def scope(self) -> MutableMapping[str, Any]: ...


def identify(request: HasScope, subject: str) -> None:
    """Tag this request, and a stream that comes of it, as ``subject``'s, such as ``"user:7"``.

    ``recheck(subject)`` checks the rights of all its streams again at once. Raises UsageError.
    """
    check_subject("identify", subject)
    request.scope.setdefault(_SUBJECTS, set()).add(subject)


def check_subject(where: str, subject: object) -> None:
    """Raise UsageError for a subject that is no text: ``7`` and ``"7"`` would be two callers."""
    if not isinstance(subject, str):
        raise UsageError(f"{where}: {subject!r} is no text: write one such as 'user:7'")


def expires(request: HasScope, at: datetime) -> None:
    """Say when the right of this request ends by itself, such as its session.

    A stream that comes of it is checked again at that moment, and not only at the next interval.
    """
    known = request.scope.get(_EXPIRES)
    moment = at.timestamp()
    request.scope[_EXPIRES] = moment if known is None else min(known, moment)


def expiry(scope: MutableMapping[str, Any]) -> float | None:
    """When the right of a request ends by itself, in Unix time; None for never."""
    found: float | None = scope.get(_EXPIRES)
    return found


def subjects(scope: MutableMapping[str, Any]) -> tuple[str, ...]:
    """The subjects that guards have named for a request, in order."""
    return tuple(sorted(scope.get(_SUBJECTS, ())))
