"""A folder that one of xdist's processes fills for all of them."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name`` of this run. The first process that asks fills it with ``make(folder)``.

    The others wait for it. They must only read the folder, and copy what they change.
    """
    top = factory.getbasetemp()
    # Each process has a folder of its own in that of the run.
    folder = (top.parent if top.name.startswith("popen-") else top) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
