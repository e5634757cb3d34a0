"""The measurement of runs beside npm's resumable-stream goes on working."""

from __future__ import annotations

import sys

import pytest

from support.markdown import ROOT
from support.npm import installed

sys.path.insert(0, str(ROOT))

from benchmarks import runs_beside  # noqa: E402

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads a process's clock")
def test_both_have_every_delta(capsys):
    """Each side fails if its followers miss one."""
    installed(runs_beside.FOLDER)
    assert runs_beside.main("--runs 5 --seconds 1".split()) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["runs", "resumable-stream"]
