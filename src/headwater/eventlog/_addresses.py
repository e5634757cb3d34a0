"""The address of a server of an event log: its parts and its options, checked.

No error has the address, which could contain a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from headwater.errors import UsageError

_NUMBER = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of ``scheme://place/path?options``.

    Attributes:
        engine: the scheme of the engine's examples, for errors.
        options: taken out one by one.
    """

    engine: str
    scheme: str
    place: str
    path: str
    options: dict[str, str]

    @classmethod
    def parse(cls, url: str, engine: str) -> Address:
        """The parts of an address. Raises UsageError."""
        try:
            scheme, place, path, query, _ = urlsplit(url)
        except ValueError as error:
            raise UsageError(f"event log {engine}://: {error}") from error
        if "#" in url:
            raise UsageError(f"event log {engine}://: a # ends an address; write it as %23")
        options = dict(parse_qsl(query, keep_blank_values=True))
        return cls(engine, scheme.lower(), place, path, options)

    def number(self, name: str, default: int) -> int:
        """Take out an option that is a number. Raises UsageError."""
        text = self.options.pop(name, str(default))
        if not _NUMBER.fullmatch(text):
            raise UsageError(f"event log {self.engine}://: {name} is a number of up to 9 digits")
        return int(text)
