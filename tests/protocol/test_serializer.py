"""What users put into events, without a serializer of their own."""

import dataclasses
import enum
import ipaddress
import types
from collections import deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import PurePosixPath
from uuid import UUID

import pydantic
import pytest

from headwater.errors import EncodingError
from headwater.protocol import to_json


class Level(enum.Enum):
    ERROR = "error"


class Name(enum.StrEnum):
    A = "a"


@dataclasses.dataclass
class Point:
    x: int
    inner: object = None


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(serialize_by_alias=False)
    at: datetime = pydantic.Field(serialization_alias="when")
    share: float = 0.5


@pydantic.dataclasses.dataclass
class PydanticPoint:
    at: datetime


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", '"a"'),
        ({"a": [1, 2.5, True, None]}, '{"a":[1,2.5,true,null]}'),
        ("é\u2028\r\n", '"é\u2028\\r\\n"'),
        (NOON, '"2026-01-02T12:00:00Z"'),
        (NOON.replace(tzinfo=None), '"2026-01-02T12:00:00"'),
        (
            NOON.astimezone(timezone(timedelta(hours=2))),
            '"2026-01-02T14:00:00+02:00"',
        ),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(1, 2), '"01:02:00"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("0.10"), '"0.10"'),
        (PurePosixPath("/a"), '"/a"'),
        ([Level.ERROR, Name.A], '["error","a"]'),
        ({Name.A: 1}, '{"a":1}'),
        ({3, 1, 2}, "[1,2,3]"),
        (frozenset({"b", "a"}), '["a","b"]'),
        ((1, deque([2])), "[1,[2]]"),
        (types.MappingProxyType({"a": 1}), '{"a":1}'),
        (b"caf\xc3\xa9", '"café"'),
        (Point(1, Point(2, {NOON.date()})), '{"x":1,"inner":{"x":2,"inner":["2026-01-02"]}}'),
        (Model(at=NOON), '{"when":"2026-01-02T12:00:00Z","share":0.5}'),
        ([Model(at=NOON)], '[{"when":"2026-01-02T12:00:00Z","share":0.5}]'),
        (PydanticPoint(NOON), '{"at":"2026-01-02T12:00:00Z"}'),
    ],
)
def test_the_json_of_a_value(value, text):
    assert to_json(value) == text


def circle():
    inside = []
    inside.append(inside)
    return inside


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"a": float("inf")},
        {float("nan"): 1},
        Model(at=NOON, share=float("nan")),
        circle(),
        object(),
        Point,
        [ipaddress.ip_address("::1")],
        {(1, 2): 3},
        b"\xff",
        {"when": timedelta(1)},
    ],
)
def test_what_json_does_not_have_is_refused_with_a_documented_error(value):
    with pytest.raises(EncodingError):
        to_json(value)
