"""Filters as SQL: the one place where the values of ``where()`` meet the columns of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from headwater.feeds.source import EVERYTHING, Conjunction, Filter
from headwater.sql.model import TableModel

# A statement whose rows are read by position, and one with its parameters.
Query: TypeAlias = "sa.Select[*tuple[Any, ...]]"
Asked: TypeAlias = "tuple[Query, dict[str, Any]]"
Condition: TypeAlias = "sa.ColumnElement[bool]"

# Statements in the cache of a table: building one takes longer than running it.
CACHED = 512

# Conjunctions that get a subquery each, with its own index. Of more, one scan in the order of
# changes is cheaper.
_MOST_CONJUNCTIONS = 16


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of a value in a statement."""

    name: str


def form_of(wanted: Filter) -> tuple[Filter, dict[str, Any]]:
    """A filter without its values, equal for all users of a feed, and the values by parameter."""
    if () in wanted.any_of:
        return EVERYTHING, {}
    values: dict[str, Any] = {}
    any_of: list[Conjunction] = []
    for conjunction in wanted.any_of:
        slots = []
        for name, value in conjunction:
            slot = None if value is None else _Slot(f"wanted_{len(values)}")
            if slot is not None:
                values[slot.name] = value
            slots.append((name, slot))
        any_of.append(tuple(slots))
    return Filter(tuple(any_of)), values


class Filters:
    """The conditions of filters' forms on one table."""

    def __init__(self, model: TableModel) -> None:
        self._columns = model.columns

    def matches(self, form: Filter) -> Condition:
        """The condition for rows that a filter lets through."""
        if form == EVERYTHING:
            return sa.true()
        return sa.or_(sa.false(), *(sa.and_(*self._equal(each)) for each in form.any_of))

    def conjunctions(self, form: Filter) -> list[list[Condition]]:
        """The conditions of each subquery that finds such rows."""
        every = [self._equal(each) for each in form.any_of]
        return every if 1 <= len(every) <= _MOST_CONJUNCTIONS else [[self.matches(form)]]

    def value(self, name: str, slot: Any) -> Any:
        """What an attribute is compared with."""
        if isinstance(slot, _Slot):
            return sa.bindparam(slot.name, type_=self._columns[name].type)
        return slot

    def _equal(self, conjunction: Conjunction) -> list[Condition]:
        return [self._columns[name] == self.value(name, slot) for name, slot in conjunction]
