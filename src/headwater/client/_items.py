"""Converts items to the caller's type: a pydantic model, a dataclass, or a function's result."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from headwater.errors import PeerError, UsageError

Convert = Callable[[Mapping[str, Any]], Any]


def converter(item: Any) -> Convert | None:
    """Returns a function that makes an ``item`` of a JSON object; None if it stays a dict.

    A pydantic model is recognised by its method, so that pydantic is not imported here. A dataclass
    gets the members that it has fields for, unchanged. Raises UsageError.
    """
    if item is None or item is dict or typing.is_typeddict(item):
        return None
    if isinstance(item, type):
        validate = getattr(item, "model_validate", None)
        if callable(validate):
            return _checked(item, validate)
        if dataclasses.is_dataclass(item):
            return _checked(item, _dataclass(item))
    elif callable(item):
        return typing.cast("Convert", item)
    raise UsageError(
        f"item={item!r}: give a pydantic model, a dataclass, or a function that takes a dict"
    )


def _dataclass(item: type[Any]) -> Convert:
    names = {field.name for field in dataclasses.fields(item) if field.init}

    def make(data: Mapping[str, Any]) -> Any:
        return item(**{name: value for name, value in data.items() if name in names})

    return make


def _checked(item: type[Any], make: Convert) -> Convert:
    def convert(data: Mapping[str, Any]) -> Any:
        try:
            return make(data)
        except (ValueError, TypeError) as error:
            said = " ".join(str(error).split())
            raise PeerError(f"an item of the feed does not fit {item.__name__}: {said}") from error

    return convert
