"""What ``requires=`` of a feed or run may name: permissions and guards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastapi import params

from headwater.errors import DeclarationError
from headwater.web.guards import Guard, guard

__all__ = ["Requirement", "required_guards"]

Requirement = str | params.Depends | Sequence[str | params.Depends] | None


def required_guards(
    requires: Requirement, guard_of: Callable[[str], Any] | None, path: str
) -> list[params.Depends]:
    """The guards that all must let a caller pass. Raises DeclarationError.

    Arguments:
        guard_of: makes the guard of a permission.
        path: of the feed, for error messages.
    """
    if requires is None:
        return []
    wanted = [requires] if isinstance(requires, (str, params.Depends)) else list(requires)
    made: list[params.Depends] = []
    for each in wanted:
        if isinstance(each, str):
            if guard_of is None:
                raise DeclarationError(
                    f"feed {path!r}: requires={each!r} needs LiveRouter(requires=...), which "
                    "makes a guard of a permission"
                )
            made.append(guard_of(each))
        elif isinstance(each, params.Depends):
            made.append(each if isinstance(each, Guard) else _guard_of(each, path))
        else:
            raise DeclarationError(
                f"feed {path!r}: requires={each!r}: a permission, a guard or a list is needed"
            )
    return made


def _guard_of(depends: params.Depends, path: str) -> params.Depends:
    if depends.dependency is None:
        raise DeclarationError(f"feed {path!r}: requires=Depends() names no dependency")
    made: params.Depends = guard(depends.dependency)
    return made
