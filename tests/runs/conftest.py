"""Runs on the event logs that need no server; the others have their turn in the long forms."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headwater.eventlog import EventLog, open_log
from headwater.runs import Runs


@pytest.fixture(params=["memory", "sqlite"])
async def log(request: Any, tmp_path: Path) -> AsyncIterator[EventLog]:
    """An empty log."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/log.db"
    async with open_log(url) as made:
        yield made


@pytest.fixture
async def runs(log: EventLog) -> AsyncIterator[Runs]:
    """Runs whose times are short enough for a test."""
    async with Runs(log, lease=1.0, grace=0.3) as made:
        yield made
