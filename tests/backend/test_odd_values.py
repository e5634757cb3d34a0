"""No value of a query or a path is an error of the database: each route answers what is wrong."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from support.backend import Person, World

ODD = [
    "a\0b",
    "9" * 40,
    "-" + "9" * 40,
    str(2**63),
    str(2**31),
    "1e400",
    "NaN",
    "ä" * 300,
    "'; --",
    "%s %(x)s :x ?",
]
# Half of a surrogate pair, and a byte that is no UTF-8.
RAW = ["%ED%A0%80", "%FF", "%00"]


def asked(paths: dict[str, Any], values: list[str]) -> list[tuple[str, str]]:
    """Each parameter of each route with each value, all others as they should be."""
    found = []
    for path, operations in paths.items():
        for method, operation in operations.items():
            if path.endswith("/stream") or method not in ("get", "delete", "put", "patch"):
                continue
            parameters = operation.get("parameters", [])
            names = [each["name"] for each in parameters if each["in"] == "path"]
            queries = [each["name"] for each in parameters if each["in"] == "query"]
            whole = path
            for name in names:
                whole = whole.replace(f"{{{name}}}", "x")
            for value in values:
                for name in names:
                    here = path.replace(f"{{{name}}}", value)
                    for other in names:
                        here = here.replace(f"{{{other}}}", "x")
                    found.append((method, here))
                found += [(method, f"{whole}?{name}={value}") for name in queries]
    return found


async def answered(world: World, admin: Person, values: list[str]) -> int:
    """How many requests were answered, none of them with a fault of the server."""
    document = (await world.anyone.get("/openapi.json")).json()
    requests = asked(document["paths"], [quote(each, safe="%") for each in values])
    for method, path in requests:
        body = {"json": {"role": "team_user"}} if method in ("put", "patch") else {}
        answer = await admin.client.request(method.upper(), path, **body)
        assert answer.status_code < 500, (method, path, answer.text)
    return len(requests)


async def test_an_odd_value_is_answered_with_what_is_wrong(world: World, admin: Person):
    assert await answered(world, admin, ["%00", "9" * 40]) > 50


@pytest.mark.soak
async def test_many_odd_values_are_answered_with_what_is_wrong(world: World, admin: Person):
    values = [quote(each, safe="") for each in ODD] + RAW
    assert await answered(world, admin, values) > 300
