"""The default serializer: an object to one line of JSON.

It knows pydantic models without importing pydantic, so that the core needs nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from headwater.errors import EncodingError

__all__ = ["to_json"]


def to_json(value: Any) -> str:
    """Compact JSON (RFC 8259) without line breaks; text beyond ASCII stays as it is.

    Takes what ``json`` takes, and pydantic models, dataclasses, dates and times (ISO 8601, UTC as
    ``Z``), UUIDs, enums (their value), decimals (a string, so that no digit is lost), paths, sets
    (sorted, so that equal sets give equal text), other mappings and sequences, and UTF-8 bytes.

    Raises EncodingError for anything else, for circular references, and for NaN and infinity, which
    JSON does not have.
    """
    try:
        return _ENCODER.encode(value)
    except EncodingError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        # pydantic's own serialization errors are ValueErrors.
        raise EncodingError(f"{type(value).__name__} is not JSON: {error}") from error


def _plain(value: Any) -> Any:
    """What ``json`` can write in the place of ``value``."""
    serializer = getattr(type(value), "__pydantic_serializer__", None)
    if serializer is not None:
        # By alias, because that is what the same object gives as a FastAPI response.
        return serializer.to_python(value, mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (datetime, time)):
        # pydantic's form, so that a feed shows one time in one way.
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal, PurePath)):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set):
        return sorted(value, key=to_json)
    if isinstance(value, Sequence):
        return list(value)
    raise EncodingError(f"{type(value).__name__} is not JSON")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
)
