"""Sets that take no room while they are empty and little with a few members.

Ten thousand users have ten thousand channels and leases with one stream each; an empty ``set``
takes 216 bytes.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from typing import TypeVar

__all__ = ["NONE", "Few", "with_one", "without"]

T = TypeVar("T", bound=Hashable)

# A tuple up to so many members, then a set. Never changed but by the functions below.
_MOST = 4
Few = tuple[T, ...] | Set[T]
NONE: tuple[()] = ()


def with_one(members: Few[T], one: T) -> Few[T]:
    """The same with one more; it takes the place of ``members``."""
    if isinstance(members, set):
        members.add(one)
        return members
    if one in members:
        return members
    if len(members) < _MOST:
        return (*members, one)
    return {*members, one}


def without(members: Few[T], one: T) -> Few[T]:
    """The same with one less, if it was there; it takes the place of ``members``."""
    if isinstance(members, set):
        members.discard(one)
        return members or NONE
    if one in members:
        return tuple(each for each in members if each != one)
    return members
