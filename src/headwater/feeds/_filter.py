"""Filters: which changes of an origin a source takes."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

Conjunction = tuple[tuple[str, Hashable], ...]

# The name in a conjunction whose value is a condition. Among the values of a change it stands for
# the conditions that are true of it.
JUDGED = "?"


class Judged(ABC):
    """A condition of a filter that only the storage can judge. Hashable; equal ones share all work.

    ``repr()`` is the same for equal ones in every process.
    """

    __slots__ = ()

    @abstractmethod
    def __and__(self, other: Judged) -> Judged:
        """Both conditions."""


class OneOf(frozenset[Hashable]):
    """Among the values of a change: all values of filters that its own one equals.

    It stands for a value that only the database can compare, such as one with a collation.
    """

    __slots__ = ()


class Compared(dict[str, Any]):
    """The values of a change, at least one of which is a ``OneOf``."""

    __slots__ = ()


# Of a filter that lets everything through.
_ALL: tuple[Conjunction, ...] = ((),)


@dataclass(frozen=True, slots=True)
class Filter:
    """A union of conjunctions of equalities: ``any_of=((("user_id", 7), ("level", "error")),)``.

    Each conjunction is sorted by name. ``((),)`` lets everything through, ``()`` nothing. Under the
    name ``"?"`` a conjunction may have a ``Judged`` condition.
    Equal filters compare equal, and streams with equal filters share all work.
    """

    any_of: tuple[Conjunction, ...] = _ALL

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Whether ``values`` has all the values of at least one conjunction."""
        return any(
            all(_equals(values.get(name), wanted) for name, wanted in conjunction)
            for conjunction in self.any_of
        )

    @classmethod
    def of(cls, **equalities: Any) -> Filter:
        """A filter from keywords; a list, tuple or set means any of it.

        >>> Filter.of(user_id=7, level=["error", "warning"]).any_of
        ((('level', 'error'), ('user_id', 7)), (('level', 'warning'), ('user_id', 7)))
        """
        choices: list[list[tuple[str, Hashable]]] = []
        for name in sorted(equalities):
            wanted = equalities[name]
            several = isinstance(wanted, (list, tuple, set, frozenset))
            values = dict.fromkeys(sorted(wanted, key=repr)) if several else [wanted]
            choices.append([(name, value) for value in values])
        return cls(tuple(itertools.product(*choices)))

    def __or__(self, other: Filter) -> Filter:
        return Filter(tuple(sorted({*self.any_of, *other.any_of}, key=repr)))

    def __and__(self, other: Filter) -> Filter:
        if self.any_of == _ALL:
            return other
        if other.any_of == _ALL:
            return self
        both: dict[Conjunction, None] = {}
        for left in self.any_of:
            for right in other.any_of:
                merged: dict[str, Any] = dict(left)
                added: dict[str, Any] = dict(right)
                if JUDGED in merged and JUDGED in added:
                    added[JUDGED] = merged.pop(JUDGED) & added[JUDGED]
                if all(merged.setdefault(name, value) == value for name, value in added.items()):
                    both[tuple(sorted(merged.items()))] = None
        return Filter(tuple(both))


EVERYTHING = Filter()


def _equals(value: Any, wanted: Hashable) -> bool:
    return wanted in value if isinstance(value, OneOf) else bool(value == wanted)
