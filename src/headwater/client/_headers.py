"""The headers of a request: each name once, and nothing in them that would break the request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from headwater.errors import UsageError

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_VISIBLE = re.compile(r"[\x21-\x7e]+")
# RFC 9110, 5.6.2: a field name is a token.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What RFC 9110 lets into a field value. Spaces at its ends would be stripped on the way.
_FIELD_VALUE = re.compile(rb"([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")


def pairs(headers: Headers) -> list[tuple[str, str]]:
    """The headers as pairs. Raises UsageError."""
    found = [*(headers.items() if isinstance(headers, Mapping) else headers)]
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in found):
        raise UsageError("headers: give a mapping of str, or pairs of str")
    return found


def merged(*groups: Headers) -> dict[bytes, bytes]:
    """Returns all headers by name. If a name is given twice, in any case, the later one counts.

    Raises UsageError. Its text has no value, because a value may be a secret.
    """
    found: dict[str, tuple[bytes, bytes]] = {}
    for group in groups:
        for name, value in pairs(group):
            encoded = _name(name)
            found.pop(name.lower(), None)
            found[name.lower()] = (encoded, _value(name, value))
    return dict(found.values())


def bearer(token: str) -> str:
    """The value of an ``Authorization`` header. Raises UsageError, without showing the token."""
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        raise UsageError("a token is visible ASCII characters without spaces or line ends")
    return f"Bearer {token}"


def is_field_value(value: bytes) -> bool:
    """Whether a header can carry these bytes unchanged."""
    return _FIELD_VALUE.fullmatch(value) is not None


def _name(name: object) -> bytes:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise UsageError(
            f"headers: {name!r} is not the name of a header: write letters, digits and hyphens"
        )
    return name.encode("ascii")


def _value(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise UsageError(f"headers: {name} must be a str, not {type(value).__name__}")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        encoded = b"\n"
    if not is_field_value(encoded):
        raise UsageError(
            f"headers: the value of {name} holds a line end, a control character, a lone surrogate "
            "or a space at an end, which no header can carry"
        )
    return encoded
