"""``open_log``: which addresses give which engine, and one clear sentence for all others."""

import builtins
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headwater.errors import MissingExtraError, UsageError
from headwater.eventlog import MemoryLog, open_log


async def test_memory() -> None:
    assert isinstance(open_log("memory://"), MemoryLog)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite", "SQLite"])
async def test_sqlite(tmp_path: Path, scheme: str) -> None:
    async with open_log(f"{scheme}:///{tmp_path}/with space.db") as log:
        await log.append("t", {"n": 1})
    assert (tmp_path / "with space.db").exists()


async def test_an_escaped_path_is_the_same_as_for_a_database(tmp_path: Path) -> None:
    async with open_log(f"sqlite:///{tmp_path}/50%25%20sure.db"):
        pass
    assert (tmp_path / "50% sure.db").exists()


async def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_log("sqlite:///events.db"):
        pass
    assert (tmp_path / "events.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "rediss+unix://:secret@host/0",
        "natss://secret@host",
        "kafka://secret",
        "secret",
        "",
    ],
)
def test_an_engine_that_this_version_has_not(url: str) -> None:
    """The sentence says which there are, and never shows a password."""
    with pytest.raises(UsageError) as caught:
        open_log(url)
    assert "memory://" in str(caught.value)
    assert "sqlite:///" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/x", "sqlite:///a?b=c"]
)
def test_sqlite_needs_a_file(url: str) -> None:
    """A database in memory is another one for each connection."""
    with pytest.raises(UsageError, match="file"):
        open_log(url)


def test_no_driver_is_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, headwater.eventlog as e; e.open_log('memory://')\n"
        "sys.exit('sqlalchemy' in sys.modules or 'aiosqlite' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_driver_is_an_error_of_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "sqlalchemy":
            raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy")
        return real(name, *args, **named)

    for name in [one for one in sys.modules if one.startswith("headwater.eventlog.sql")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r'pip install "headwater\[sql\]"'):
        open_log("sqlite:///events.db")
