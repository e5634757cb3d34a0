"""How long a stream and a waiting request outlive their right, and that nothing comes after it.

The long form prints figures: ``uv run pytest -n 0 -s -m soak tests/e2e/test_right_trials.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from right_trials import lose_rights
from running import Running

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def pair(seeded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Two processes on one database, whose own looks at the rights come too late to matter."""
    folder = tmp_path_factory.mktemp("trials")
    servers = [Running(seeded, folder, recheck_seconds=30) for _ in range(2)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.close()


async def test_a_right_that_is_lost_ends_what_stands_on_it(pair: list[Running]):
    """Whatever the right, the response and the process; with nothing after it."""
    assert len(await lose_rights(pair, 4)) == 4
    assert [server.complaints() for server in pair] == [[], []]


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_five_hundred_rights_are_lost(pair: list[Running]):
    took = await lose_rights(pair, 500)
    assert max(took) < 1.0
    assert [server.complaints() for server in pair] == [[], []]
