"""``headwater migrate``."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from support.command import refused, run, url_of


def test_it_makes_a_new_database_and_is_idempotent(tmp_path: Path):
    path = tmp_path / "new.db"
    code, first = run("migrate", "--database", url_of(path))
    assert code == 0
    assert "is now up to date" in first
    code, second = run("migrate", HEADWATER_DATABASE=url_of(path))
    assert code == 0
    assert "was up to date" in second


def test_without_an_address_it_is_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import headwater.backend.settings as settings

    monkeypatch.setattr(settings, "default_folder", lambda: tmp_path / "deep" / "data")
    code, output = run("migrate")
    assert code == 0
    assert (tmp_path / "deep" / "data" / "headwater.db").exists()
    assert (tmp_path / "deep" / "data").stat().st_mode & 0o077 == 0


def test_what_it_cannot_use_is_one_sentence(tmp_path: Path):
    assert "does not exist" in refused("migrate", "--database", url_of(tmp_path / "a" / "b.db"))
    assert "sqlite:///path" in refused("migrate", "--database", "mysql:///headwater")
    nowhere = f"postgresql:///headwater?host={tmp_path}"
    assert "cannot be used" in refused("migrate", "--database", nowhere)
    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE songs (title TEXT)").connection.close()
    assert "something else" in refused("migrate", "--database", url_of(other))
