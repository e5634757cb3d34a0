"""The measurements of event logs that documentation names go on working."""

from __future__ import annotations

import sys

import pytest

from support.markdown import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.event_logs import __main__ as proof  # noqa: E402
from benchmarks.event_logs import idle, latency, reports  # noqa: E402

pytestmark = pytest.mark.long

SMALL = {
    proof.main: "--engine sqlite --events 200 --topics 2 --streams 4 --kills 1",
    latency.main: "--engine sqlite --streams 10 --topics 5 --events 20",
    reports.main: "--engine sqlite --rate 100 --satellites 10 --seconds 2",
    idle.main: "--engine sqlite --streams 20 --seconds 1",
}


# Each sets a backend up, which takes seconds.
@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="they read /proc")
@pytest.mark.parametrize("main", SMALL, ids=lambda main: main.__module__.rpartition(".")[2])
def test_they_tell_their_figures(main, capsys):
    assert main(SMALL[main].split()) == 0
    said = capsys.readouterr().out
    assert "sqlite" in said.splitlines()[-1] or "| sqlite |" in said
    assert "missing" not in said
