"""Who asks is read from a request as the framework would read it, only sooner."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.security import APIKeyCookie, HTTPBearer

from headwater.backend.auth.dependencies import COOKIE, bearer_key, session_cookie


def asking(*headers: tuple[bytes, bytes]) -> Request:
    return Request({"type": "http", "method": "GET", "path": "/", "headers": list(headers)})


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [b""],
        [b"session=abc"],
        [b" session = abc "],
        [b"session=a=b="],
        [b'session="a b"'],
        [b"session="],
        [b"session"],
        [b"=abc"],
        [b"other=abc"],
        [b"Session=abc"],
        [b"other=1; session=abc; session=def"],
        [b"other=1", b"session=abc"],
        [b"session=abc", b"session=def"],
        [b"session=\xfc\xff"],
    ],
    ids=repr,
)
async def test_the_session_is_what_the_framework_reads(sent):
    headers = [(b"host", b"x"), *((b"cookie", value) for value in sent)]
    plain = APIKeyCookie(name=COOKIE, auto_error=False)
    assert await session_cookie(asking(*headers)) == await plain(asking(*headers))


@pytest.mark.parametrize(
    "sent", [[], [b""], [b"Bearer hw_x"], [b"bearer  hw_x "], [b"Basic eDp5"], [b"hw_x"]], ids=repr
)
async def test_the_key_is_what_the_framework_reads(sent):
    headers = [(b"authorization", value) for value in sent]
    plain = HTTPBearer(auto_error=False)
    assert await bearer_key(asking(*headers)) == await plain(asking(*headers))
