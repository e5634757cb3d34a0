"""JSON objects from options or standard input, and the request bodies that they are sent in."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from headwater.cli.remote import say
from headwater.errors import EncodingError, UsageError

# The backend takes 1,000 items, and bodies of up to a megabyte.
MAX_ITEMS = 1000
_MAX_BYTES = 500_000
_READ_SIZE = 65_536
# A line may be an array of many items.
_MAX_LINE = 64 * 1024 * 1024
# Characters of a line that an error shows.
_SHOWN = 60
_EXAMPLE = """'{"message": "Hello"}'"""


@dataclass(frozen=True, slots=True)
class Lines:
    """Items that are ready to be sent.

    Attributes:
        items: each encoded.
        read: how much of the input was read up to here.
    """

    items: list[bytes]
    read: int


@dataclass(frozen=True, slots=True)
class Body:
    """One request's body.

    Attributes:
        count: how many items are in it.
        read: how much of the input was read up to here.
    """

    data: bytes
    count: int
    read: int


def from_options(texts: list[str], collection: str | None) -> Iterator[Lines]:
    """The items of ``--data``. Raises UsageError."""
    items: list[bytes] = []
    for text in texts:
        items += _parsed(text, "--data", collection)
    yield Lines(items, len(texts))


def from_stdin(collection: str | None) -> Iterator[Lines]:
    """One object a line, as many at a time as have come. Raises UsageError."""
    if sys.stdin.isatty():
        say("reading JSON objects from the terminal, one a line; Ctrl-D ends")
    number = read = 0
    for lines in _ready_lines():
        items: list[bytes] = []
        for line in lines:
            number += 1
            read += len(line) + 1
            if line.strip():
                items += _parsed(line, f"line {number}", collection)
        yield Lines(items, read)


def size_of_stdin() -> int | None:
    """Bytes of standard input if it is a file; None if the number is not known."""
    try:
        found = os.fstat(sys.stdin.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def bodies(
    groups: Iterable[Lines], collection: str | None, batch: int, *, full: bool
) -> Iterator[Body]:
    """Request bodies: of one item each, or of up to ``batch`` in a collection.

    Arguments:
        full: a body waits until its batch is full, so that the same input always makes the same
            bodies. Otherwise the items of a group are sent without waiting for the next group.
    """
    if collection is None:
        yield from (Body(item, 1, group.read) for group in groups for item in group.items)
        return
    head = b"{%b:[" % json.dumps(collection).encode()
    held: list[bytes] = []
    size = read = 0

    def taken() -> Iterator[Body]:
        nonlocal size
        if held:
            yield Body(head + b",".join(held) + b"]}", len(held), read)
        held.clear()
        size = 0

    for group in groups:
        read = group.read
        for item in group.items:
            if size + len(item) > _MAX_BYTES:
                yield from taken()
            held.append(item)
            size += len(item) + 1
            if len(held) == batch:
                yield from taken()
        if not full:
            yield from taken()
    yield from taken()


def _ready_lines() -> Iterator[list[bytes]]:
    """The whole lines of standard input, as many at a time as have come. Raises UsageError."""
    stdin: Any = sys.stdin.buffer
    rest, number = bytearray(), 1
    while chunk := stdin.read1(_READ_SIZE):
        rest += chunk
        if b"\n" in chunk:
            *lines, last = bytes(rest).split(b"\n")
            yield lines
            rest, number = bytearray(last), number + len(lines)
        elif len(rest) > _MAX_LINE:
            raise UsageError(f"line {number} has more than {_MAX_LINE} bytes")
    if rest:
        yield [bytes(rest)]


def _parsed(text: str | bytes, name: str, collection: str | None) -> list[bytes]:
    from headwater.protocol import to_json

    value = _value(text, name)
    if collection is not None and isinstance(value, dict) and list(value) == [collection]:
        value = value[collection]  # somebody wrapped it already
    items: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(item, dict) for item in items):
        raise UsageError(f"{name} is not a JSON object, such as {_EXAMPLE}: {_short(text)}")
    try:
        return [to_json(item).encode() for item in items]
    except EncodingError as error:
        raise UsageError(f"{name} is not JSON: {error}: {_short(text)}") from None


def _value(text: str | bytes, name: str) -> Any:
    try:
        # A byte order mark begins a file that Windows wrote.
        read = text if isinstance(text, str) else text.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text: {_short(text)}") from None
    try:
        return json.loads(read, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at character {error.pos + 1}"
        raise UsageError(f"{name} is not JSON: {where} of {_short(read)}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name} is not JSON: {error}: {_short(read)}") from None


def _no_number(name: str) -> None:
    raise ValueError(f"it has no {name}")


def _short(text: str | bytes) -> str:
    shown = text if isinstance(text, str) else text.decode(errors="backslashreplace")
    shown = shown.strip()
    return repr(shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…")
