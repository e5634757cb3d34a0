"""How far a long migration is, as one line on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

# Rows: fewer are numbered in a moment.
_WORTH_A_BAR = 20_000
# Seconds between two drawings.
_EVERY = 0.1
_WIDTH = 30


def on_terminal(table: str) -> Callable[[int, int], object] | None:
    """Returns a function of the rows that are numbered and of all; None without a terminal.

    It writes to the process's own standard error only: a program that replaced it shows something
    else there.
    """
    stream = sys.stderr
    own = stream is sys.__stderr__
    # A process may have none.
    if not (stream and own and stream.isatty()):
        return None
    drawn_at = 0.0

    def show(done: int, total: int) -> None:
        nonlocal drawn_at
        now = time.monotonic()
        if total < _WORTH_A_BAR:
            return
        # The last call may come with a few rows more: others write meanwhile.
        if done >= total:
            stream.write("\r\x1b[K")
            stream.flush()
            return
        if now < drawn_at + _EVERY:
            return
        drawn_at = now
        filled = _WIDTH * done // total
        bar = "█" * filled + "░" * (_WIDTH - filled)
        stream.write(f"\r\x1b[K{table}: numbering rows {bar} {done:,} of {total:,}")
        stream.flush()

    return show
