"""The proof that people are told to run goes on working, and would find a fault."""

from __future__ import annotations

import sys

import pytest

from support.markdown import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.exactness.__main__ import judged, main  # noqa: E402
from benchmarks.exactness.clients import Body  # noqa: E402
from benchmarks.exactness.writers import Written  # noqa: E402

pytestmark = pytest.mark.long

SMALL = ["--rows", "200", "--streams", "4", "--writers", "3", "--long", "1"]


@pytest.mark.parametrize(
    "fault",
    [
        ["--kills", "1"],
        pytest.param(["--restarts", "1"], marks=pytest.mark.soak),
        pytest.param(["--kills", "1", "--driver", "asyncpg"], marks=pytest.mark.soak),
    ],
)
def test_each_row_is_told_once(fault, capsys):
    assert main([*SMALL, "--order", "total", *fault]) == 0
    figures = dict(part.split("=") for part in capsys.readouterr().out.split("\n")[1].split())
    assert int(figures["rows"]) >= 200
    assert (figures["lost"], figures["repeated"], figures["orders"]) == ("0", "0", "1")
    assert (int(figures["broken"]) > 0) == (fault[0] == "--kills")


def test_what_would_be_wrong_is_counted():
    written = Written({1: 0, 2: 1, 3: 2}, began=[0.0, 2.0, 4.0], ended=[1.0, 3.0, 5.0])
    rest = {"times": [([1], 1.5, 0.0), ([2], 3.5, 0.0)], "resets": 0, "broken": 0, "resumed": 0}
    answers = [{"told": told, "longest_id": 9, **rest} for told in ([1, 2, 3], [2, 1, 1])]
    found = judged({1, 2, 3}, written, answers)
    assert (found["lost"], found["repeated"], found["breaches"]) == (1, 1, 2)
    assert found["orders"] == 2


def test_chunks_are_put_together_however_they_come():
    raw = b"4\r\nab\r\n\r\n3\r\nxyz\r\n"
    for size in range(1, len(raw) + 1):
        body = Body()
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        assert b"".join(map(body.feed, pieces)) == b"ab\r\nxyz"
