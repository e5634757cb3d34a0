"""A position in a file, so that a program that was ended goes on where it was."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from headwater.errors import UsageError

# A position of Headwater has at most 2,048 characters; other servers send what they like.
_MAX_BYTES = 65_536


class PositionFile:
    """One position in one file, as a line of text.

    A position is written to another file, which then replaces the old one. So a reader finds the
    old or the new position, also after a ``kill -9``. It is not forced to the disk: a power cut may
    bring back an older one, and the items after it come again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> str:
        """The position; empty where there is no file yet. Raises UsageError."""
        try:
            with self._path.open("rb") as file:
                raw = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            if not self._path.parent.is_dir():
                raise self._refused(f"there is no folder {self._path.parent}") from None
            return ""
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from None
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise self._refused("it is not UTF-8 text, so it holds no position") from None
        position = text.removesuffix("\n")
        if not position or len(raw) > _MAX_BYTES or set(position) & set("\n\r\0"):
            raise self._refused(
                "it does not hold one position in one line; remove it to begin without one"
            )
        return position

    def save(self, position: str) -> None:
        """Write the position. Raises UsageError if that fails."""
        try:
            handle, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
            written = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(f"{position}\n".encode())
                written.replace(self._path)
            finally:
                written.unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error

    def _refused(self, why: str) -> UsageError:
        return UsageError(f"the position file {str(self._path)!r} cannot be used: {why}")
