"""A set that takes no memory while it is empty, and little with a few members.

Ten thousand users have ten thousand channels with one stream each, and an empty ``set`` takes 216
bytes. Up to four members are a tuple, more are a ``set``.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

_LONGEST_TUPLE = 4
# Changed by the functions below alone.
SmallSet = tuple[T, ...] | Set[T]
EMPTY: tuple[()] = ()


def with_one(members: SmallSet[T], one: T) -> SmallSet[T]:
    """The set with one more member. Store it in the place of ``members``, which may be changed."""
    if isinstance(members, set):
        members.add(one)
        return members
    if one in members:
        return members
    if len(members) < _LONGEST_TUPLE:
        return (*members, one)
    return {*members, one}


def without(members: SmallSet[T], one: T) -> SmallSet[T]:
    """The set without a member. Store it in the place of ``members``, which may be changed."""
    if isinstance(members, set):
        members.discard(one)
        return members or EMPTY
    if one in members:
        return tuple(each for each in members if each != one)
    return members
