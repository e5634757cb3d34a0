"""Standard output: prints lines at once, and handles a reader that has left."""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys

from headwater.errors import UsageError

_ESCAPES = "headwater.json"

# Why standard output may take no more.
UNWRITABLE = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def open_standard_streams() -> None:
    """Give a process a standard stream that nobody gave it (``>&-``).

    Otherwise Python has none, and the first socket or database takes its number: what a library
    prints would go there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not each encoding of a terminal has each character.
        codecs.register_error(_ESCAPES, _escaped)
        sys.stdout.reconfigure(errors=_ESCAPES)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """The characters that cannot be encoded, as JSON writes them."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def put(text: str, *, end: str = "\n") -> None:
    """Print at once.

    Raises BrokenPipeError when the reader of a pipe has left, and UsageError when standard output
    takes no more for another reason, such as a full disk.
    """
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        abandon_output()
        raise
    except OSError as error:
        abandon_output()
        raise UsageError(f"standard output cannot be written: {error.strerror}") from None


def abandon_output() -> None:
    """Discard what is still buffered, because the interpreter's last flush would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
