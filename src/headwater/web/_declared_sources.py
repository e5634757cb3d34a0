"""Faults of a feed that show when it is declared, by the sources that its function names.

What a function returns is known only at a request, but most name one table and select from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from headwater.errors import DeclarationError
from headwater.feeds._source import Origin, Source
from headwater.web._items import required_fields
from headwater.web._pair import FeedDeclaration


def check_declared_source(declaration: FeedDeclaration, call: Callable[..., Any]) -> None:
    """Check a feed against the one source that its function names, if it names one.

    Raises DeclarationError: a keyed source on a feed that is not, or a field of the item model that
    the source does not have.
    """
    sources = list(_named_by(call))
    if len(sources) != 1:
        return
    (source,) = sources
    declaration.accept(source)
    if declaration.feed.function is not None:
        # It may fill any field.
        return
    for names in required_fields(declaration.item):
        faults = []
        for name in names:
            try:
                source.check_fields([name])
            except DeclarationError as error:
                faults.append(error)
        if len(faults) == len(names):
            raise faults[0]


def _named_by(call: Callable[..., Any]) -> Iterator[Source]:
    try:
        names = inspect.getclosurevars(call)
    except (TypeError, ValueError):
        # It is no function, or names what is assigned after it.
        return
    for each in {
        id(each): each for each in (*names.nonlocals.values(), *names.globals.values())
    }.values():
        if isinstance(each, Source):
            yield each
        elif isinstance(getattr(each, "origin", None), Origin):
            selection = each.where()
            if isinstance(selection, Source):
                yield selection
