"""From a change to the targets it is for: an index of equality filters, not a scan."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from headwater.delivery.small_set import EMPTY, SmallSet, with_one, without
from headwater.feeds.source import Compared, Filter, OneOf

__all__ = ["FilterIndex"]

T = TypeVar("T", bound=Hashable)


class FilterIndex(Generic[T]):
    """Finds the targets for a row's values with one look-up per set of column names."""

    def __init__(self) -> None:
        # By column names, then by values: a tuple of them, or the value if there is one column.
        self._groups: dict[tuple[str, ...], dict[Hashable, SmallSet[T]]] = {}

    def add(self, wanted: Filter, target: T) -> None:
        """Register a target for all rows that a filter matches."""
        for conjunction in wanted.any_of:
            names, values = _split(conjunction)
            group = self._groups.setdefault(names, {})
            group[values] = with_one(group.get(values, EMPTY), target)

    def remove(self, wanted: Filter, target: T) -> None:
        """Undo ``add``."""
        for conjunction in wanted.any_of:
            names, values = _split(conjunction)
            group = self._groups[names]
            left = group[values] = without(group[values], target)
            if not left:
                del group[values]
            if not group:
                del self._groups[names]

    def match(self, values: Mapping[str, Any]) -> Iterable[T]:
        """The targets of a row with these values, each once."""
        if values.__class__ is Compared:
            return self._match_several(values)
        found: SmallSet[T] = EMPTY
        several: set[T] | None = None
        for names, group in self._groups.items():
            try:
                if len(names) == 1:
                    hit = group.get(values.get(names[0]))
                else:
                    hit = group.get(tuple([values.get(name) for name in names]))
            except TypeError:  # a value without a hash equals no value of a filter
                continue
            if hit:
                if several is not None:
                    several.update(hit)
                elif found:
                    several = {*found, *hit}
                else:
                    found = hit
        return several or found

    def _match_several(self, values: Mapping[str, Any]) -> set[T]:
        """As ``match``, for values some of which stand for several."""
        found: set[T] = set()
        for names, group in self._groups.items():
            own = [values.get(name) for name in names]
            choices = [each if isinstance(each, OneOf) else (each,) for each in own]
            for one in itertools.product(*choices):
                try:
                    found.update(group.get(one[0] if len(one) == 1 else one, EMPTY))
                except TypeError:  # a value without a hash equals no value of a filter
                    break
        return found

    def wanted(self, names: Collection[str]) -> dict[str, frozenset[Hashable]]:
        """By name, the values that these names are compared with."""
        found: dict[str, set[Hashable]] = {}
        for columns, group in self._groups.items():
            for at, name in enumerate(columns):
                if name in names:
                    every: Iterable[Any] = group
                    own = every if len(columns) == 1 else [each[at] for each in every]
                    found.setdefault(name, set()).update(own)
        return {name: frozenset(values) for name, values in found.items()}

    def __bool__(self) -> bool:
        return bool(self._groups)


def _split(conjunction: Iterable[tuple[str, Hashable]]) -> tuple[tuple[str, ...], Hashable]:
    names = tuple(name for name, _ in conjunction)
    values = tuple(value for _, value in conjunction)
    return names, values[0] if len(values) == 1 else values
