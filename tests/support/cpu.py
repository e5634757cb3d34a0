"""``pytest --cpu-times``: the CPU time that each test and fixture takes, on Linux.

It counts user and system time of the test's process and of all its child processes, also of
servers that still run when the test has ended. A test's own figure is without its fixtures.
A figure below 0 means that a process lost its parent, and with it the way to its time.
"""

from __future__ import annotations

import collections
import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TICKS = os.sysconf("SC_CLK_TCK")
SHOWN = 40


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu-times",
        action="store_true",
        help="show the CPU seconds of each file, test and fixture, child processes included",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--cpu-times"):
        config.pluginmanager.register(Times(config), "cpu-times")


def spent() -> float:
    """CPU seconds of this process and its children, both those that ended and those that run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = resource.getrusage(resource.RUSAGE_SELF)
    seconds = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    return seconds + sum(map(_spent_by, _children(os.getpid())))


def _spent_by(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended since
        return 0.0
    # proc(5): utime, stime, cutime and cstime are the fields 14 to 17; `fields` begins at the 3rd.
    return sum(map(int, fields[11:15])) / TICKS


def _children(process: int) -> Iterator[int]:
    found: list[int] = []
    # A process or a thread may end while it is read.
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            found += map(int, Path(f"/proc/{process}/task/{task}/children").read_text().split())
    for child in found:
        yield child
        yield from _children(child)


class Times:
    """Collects the figures of one process; the controller of xdist adds up those of its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tests: collections.Counter[str] = collections.Counter()
        self.fixtures: collections.Counter[str] = collections.Counter()
        # Seconds that fixtures took within the measurement that is under way.
        self._within = [0.0]

    def _measured(self, into: collections.Counter[str], name: str) -> Iterator[None]:
        before = spent()
        self._within.append(0.0)
        try:
            return (yield)
        finally:
            took = spent() - before
            into[name] += took - self._within.pop()
            self._within[-1] += took

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        return (yield from self._measured(self.fixtures, "(collection)"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._measured(self.tests, item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        name = f"{fixturedef.baseid}: {fixturedef.argname}".removeprefix(": ")
        return (yield from self._measured(self.fixtures, name))

    # xdist's own wrapper sends the figures, so this one ends before it.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        result = yield
        self.fixtures["(all else)"] += spent() - self.tests.total() - self.fixtures.total()
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output["cpu_times"] = [dict(self.tests), dict(self.fixtures)]
        return result

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """xdist: a worker has ended and its figures have arrived."""
        tests, fixtures = getattr(node, "workeroutput", {}).get("cpu_times", ({}, {}))
        self.tests.update(tests)
        self.fixtures.update(fixtures)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        files: collections.Counter[str] = collections.Counter()
        for name, seconds in self.tests.items():
            files[name.partition("::")[0]] += seconds
        total = self.tests.total() + self.fixtures.total()
        terminalreporter.section(f"CPU: {total:.0f} s, {total / 60:.1f} min")
        for title, found in ("file", files), ("test", self.tests), ("fixture", self.fixtures):
            terminalreporter.write_line(f"{found.total():8.1f} s  all of them, by {title}:")
            for name, seconds in found.most_common(SHOWN):
                terminalreporter.write_line(f"{seconds:8.2f} s  {name}")
