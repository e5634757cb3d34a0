"""On whose behalf a request is made, as guards name it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, Protocol

__all__ = ["identify", "subjects"]

_SUBJECTS = "headwater.subjects"


class HasScope(Protocol):
    """A request of any framework on ASGI."""

    @property
    def scope(self) -> MutableMapping[str, Any]: ...


def identify(request: HasScope, subject: str) -> None:
    """Tag this request, and a stream that comes of it, as ``subject``'s, such as ``"user:7"``.

    ``recheck(subject)`` checks the rights of all its streams again at once.
    """
    request.scope.setdefault(_SUBJECTS, set()).add(subject)


def subjects(scope: MutableMapping[str, Any]) -> tuple[str, ...]:
    """The subjects that guards have named for a request, in order."""
    return tuple(sorted(scope.get(_SUBJECTS, ())))
