"""The proof of the relay goes on working, and would find a fault."""

from __future__ import annotations

import sys

import pytest

from support.markdown import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.relay.__main__ import judged, main  # noqa: E402

pytestmark = pytest.mark.long

SMALL = ["--rows", "1000", "--kills", "2", "--lease", "0.5", "--batch", "50"]


@pytest.mark.parametrize(
    ("database", "engine"),
    [("sqlite", "sqlite"), pytest.param("postgresql", "redis", marks=pytest.mark.soak)],
)
def test_each_row_is_once_in_the_log_while_relays_are_killed(database, engine, request, capsys):
    where = ["--database", database]
    if database == "postgresql":
        postgres = request.getfixturevalue("postgres")
        name = postgres.database()
        request.addfinalizer(lambda: postgres.drop(name))
        where += ["--url", postgres.url(name)]
    code = main([*SMALL, *where, "--engine", engine])
    figures = dict(part.split("=") for part in capsys.readouterr().out.split("\n")[1].split())
    assert (figures["rows"], figures["kills"]) == ("1000", "2")
    assert (figures["lost"], figures["repeated"], figures["out_of_order"]) == ("0", "0", "0")
    assert code == 0


def test_what_would_be_wrong_is_counted():
    stored = [(10, 1, 0), (11, 2, 0), (12, 1, 1), (13, 1, 2)]
    assert judged(stored, [11, 10, 12, 13], exact=False) == {
        "lost": 0,
        "repeated": 0,
        "out_of_order": 0,
    }
    assert judged(stored, [11, 10, 12, 13], exact=True)["out_of_order"] == 1
    found = judged(stored, [10, 12, 12, 11, 10], exact=False)
    assert found == {"lost": 1, "repeated": 2, "out_of_order": 0}
    assert judged(stored, [10, 13, 12], exact=False) == {
        "lost": 1,
        "repeated": 0,
        "out_of_order": 1,
    }
