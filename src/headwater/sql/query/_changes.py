"""Makes the changes that clients are sent of an affected key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from headwater.feeds._source import Change, Filter
from headwater.sql._unreadable import Unreadable
from headwater.sql.query._derivation import Derivation
from headwater.sql.query._place import QueryPlace
from headwater.sql.query._poll import Affected, Values


def item_of(
    derivation: Derivation, place: QueryPlace | None, row: Values, compared: Values | None = None
) -> Change:
    """A row as a change; ``compared`` is what filters compare of it."""
    key = _key_of(derivation, row)
    return Change(place, row if compared is None else compared, row, key=key)


def change_for(derivation: Derivation, one: Affected, wanted: Filter) -> Change | None:
    """The change for a client with this filter. The row was read with the filter too."""
    place = _given(one)
    if one.row is not None:
        return item_of(derivation, place, one.row)
    for held in one.held:
        if wanted.matches(held):
            key = _key_of(derivation, held)
            return Change(place, held, removed=True, key=key)
    return None


def changes_of(derivation: Derivation, one: Affected) -> Iterator[Change]:
    """The changes that clients with any filter may be sent of a key."""
    place, row = _given(one), one.row
    for held in one.held:
        if row is None or any(held[name] != row[name] for name in derivation.filters):
            key = _key_of(derivation, held)
            yield Change(place, held, removed=True, key=key, values_now=one.compared or row)
    if row is not None:
        yield item_of(derivation, place, row, one.compared)


def _key_of(derivation: Derivation, values: Values) -> dict[str, Any]:
    """The key among these values; of one that cannot be read what the database has."""
    key = {name: values[name] for name in derivation.key}
    return {n: str(v.raw) if isinstance(v, Unreadable) else v for n, v in key.items()}


def _given(one: Affected) -> QueryPlace | None:
    return one.place if one.place.speakable else None
