"""The benchmark of fan-out goes on working: its figures are what the documentation stands on."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from support.markdown import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.fanout import machine, report  # noqa: E402
from benchmarks.fanout.load import Load  # noqa: E402
from benchmarks.fanout.measure import Plan, Row, delivery, interleaved  # noqa: E402
from benchmarks.fanout.ours import Committed, Headwater  # noqa: E402
from benchmarks.fanout.peers import Baseline, Peer  # noqa: E402
from benchmarks.fanout.scenarios import SCENARIOS  # noqa: E402

pytestmark = pytest.mark.long

needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and cc"
)
SCENARIO = next(scenario for scenario in SCENARIOS if scenario.name == "one-1000")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@needs_linux
@pytest.mark.usefixtures("cache")
def test_our_server_and_the_baseline_deliver_everything_once():
    """Both doors of ours, one stream's feed and several: nothing lost, nothing twice."""
    baseline = Baseline()
    peers: list[Peer] = [Headwater(2), Committed(2)]
    try:
        for peer in (baseline, *peers):
            peer.start()
        plan = Plan(8, groups=2, each=2, shots=4, burst=3, seconds=5)
        rows = interleaved(baseline, peers, 1, lambda peer: delivery(peer, plan), ("cpu",))
    finally:
        for peer in (baseline, *peers):
            peer.stop()
    assert [row.why_not for row in rows] == ["", "", ""]
    for row in rows:
        assert row.total("delivered") == 8 * 4 * 3 * len(row.rounds)
        assert row.total("lost") == row.total("repeated") == row.total("gone") == 0
        assert row.total("refusals") == 0
    assert all(row.get("cpu_ratio") for row in rows[1:])


@needs_linux
@pytest.mark.usefixtures("cache")
def test_what_is_lost_or_repeated_is_counted():
    """A count that cannot find a loss proves nothing."""
    peer, load = Baseline(), Load()
    try:
        peer.start()
        peer.aim(load, 1)
        assert load.open(3)["live"] == 3
        _, (one, two, three) = peer.shots(3, streams=3)
        missing = load.fire([one, three], base=0, limit=5, slack=0.3)
        assert (missing.delivered, missing.gaps, missing.lost, missing.repeated) == (6, 3, 0, 0)
        again = load.fire([one, one, two], base=0, limit=5, slack=0.3)
        assert (again.delivered, again.lost, again.repeated) == (3, 3, 3)
        assert machine.cpu_seconds(peer.pids) > 0
        assert machine.memory(peer.pids) > 100_000
    finally:
        load.stop()
        peer.stop()


def test_only_what_is_between_the_markers_of_the_page_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nmine\n")
    report.insert(page, "one\n")
    report.insert(page, "two\n")
    page.write_text(page.read_text() + "\n## More\n\nmine too\n")
    report.insert(page, "three\n")
    assert page.read_text() == (
        f"# Page\n\nmine\n\n{report.BEGIN}\nthree\n{report.END}\n\n## More\n\nmine too\n"
    )


def test_the_report_names_machine_and_command_and_who_was_left_out():
    rows = [
        Row("C", "cc", [{"cpu": 5.0, "client_busy": 0.61}]),
        Row("ours & co", "1", [{"cpu": 6.0, "cpu_ratio": 1.2, "lost": 0}, {"cpu_ratio": 1.4}]),
        Row("absent", why_not="it was not found"),
    ]
    about = {"command": "run it", "machine": "a machine", "load": "idle", "when": "today"}
    found = [(replace(SCENARIO, note="a note"), rows)]
    text = report.section(found, about)
    assert "```sh\nrun it\n```" in text
    assert "On a machine, idle; today." in text
    assert "| ours & co | 6 | 1.30 |" in text
    assert "for at most 61% of the time" in text
    assert "- absent: it was not found" in text
    picture = report.plot(found)
    assert "ours &amp; co" in picture
    assert picture.count("<svg") == 1


def test_each_scenario_has_a_name_of_its_own_and_a_quick_form():
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    for scenario in SCENARIOS:
        small = scenario.quick().plan
        assert small.streams % small.groups == 0
        assert small.groups % small.each == 0
        assert small.streams <= 200
