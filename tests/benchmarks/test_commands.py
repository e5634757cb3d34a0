"""The benchmarks that documentation names go on working, and miss nothing themselves."""

from __future__ import annotations

import os
import sys

import pytest

from support.markdown import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.commit_to_client import __main__ as commit_to_client  # noqa: E402

from benchmarks import busy_table, resume_gap  # noqa: E402

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def cores():
    """They choose a core for themselves."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(sys.platform != "linux", reason="they choose cores and read /proc")
@pytest.mark.parametrize(
    ("main", "small"),
    [
        (commit_to_client.main, "--database sqlite --streams 5 --rows 2"),
        pytest.param(
            *(resume_gap.main, "--database postgresql --gap 1000"), marks=pytest.mark.soak
        ),
        pytest.param(
            *(busy_table.main, "--database postgresql --rate 1000 --seconds 0.5 --streams 3"),
            marks=pytest.mark.soak,
        ),
    ],
)
def test_each_row_is_there_once(main, small, capsys):
    assert main(small.split()) == 0
    assert "each once" in (out := capsys.readouterr().out) or "statements/s" in out
