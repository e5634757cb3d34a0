"""Progress of long work, on standard error and only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial


class Bar:
    """Shows how far some work is. Without a terminal it shows nothing."""

    def __init__(self, update: Callable[..., object] | None = None) -> None:
        self._update = update

    def at(self, done: float, *, total: float | None = None, says: str = "") -> None:
        """Show that ``done`` of ``total`` is done."""
        if self._update is not None:
            self._update(completed=done, total=total, says=says)


@contextmanager
def progress(title: str, total: float | None = None) -> Iterator[Bar]:
    """A bar while the block runs; without a total a sign that work goes on."""
    if not sys.stderr.isatty():
        # In a pipe or a log a bar is only in the way.
        yield Bar()
        return
    from rich import progress as rich
    from rich.console import Console

    shown = rich.Progress(
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TaskProgressColumn(show_speed=True),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.fields[says]}"),
        console=Console(stderr=True),
        transient=True,
        # Lines on the same terminal go above the bar; those for a pipe must stay in the pipe.
        redirect_stdout=sys.stdout.isatty(),
    )
    with shown:
        yield Bar(partial(shown.update, shown.add_task(title, total=total, says="")))
