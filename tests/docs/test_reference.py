"""The reference is complete and current: what can be used is in it, and it says what is so now."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sqlite3
import sys
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa

import headwater
from support.markdown import ROOT, blocks

sys.path.insert(0, str(ROOT / "docs"))

import generate  # noqa: E402 - found through the line above
from generated import commands, python  # noqa: E402

REFERENCE = ROOT / "docs" / "reference"

# Parts whose names are for the package itself and for the curious.
INNER = {
    "headwater.adapters",
    "headwater.backend",
    "headwater.cli",
    "headwater.delivery",
    "headwater.web",
}


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


def test_the_generated_parts_are_current():
    stale = [str(path.relative_to(ROOT)) for path in generate.stale()]
    assert not stale, f"{stale}: uv run tasks.py docs"


def public_modules() -> list[ModuleType]:
    """The modules of the reference, and each part's front, so that no new one is forgotten."""
    fronts = {
        f"headwater.{found.name}"
        for found in pkgutil.iter_modules(headwater.__path__)
        if not found.name.startswith("_")
    }
    return [importlib.import_module(name) for name in sorted({*python.PAGES, *fronts - INNER})]


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module: ModuleType):
    assert module.__all__
    text = page(f"python/{python.PAGES[module.__name__]}")
    section = text.partition(f"## `{module.__name__}`")[2]
    missing = [
        name
        for name in module.__all__
        if f"### `{name}`" not in section and f"- `{name}`: " not in section
    ]
    assert not missing


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_every_public_name_says_what_it_is(module: ModuleType):
    values = {name: getattr(module, name) for name in module.__all__}
    silent = [
        name
        for name, value in values.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not value.__doc__
    ]
    assert not silent


def test_every_command_is_in_the_reference():
    text = page("commands.md")
    names = list(commands.names())
    assert "users add" in names
    for name in names:
        assert f"## `headwater {name}`" in text


def test_every_setting_is_in_the_reference():
    from headwater.backend.settings import Settings

    text = page("settings.md")
    for name, field in Settings.model_fields.items():
        assert f"`HEADWATER_{name.upper()}`" in text
        assert field.description, f"{name} says nothing of itself"


def test_every_route_is_in_the_reference():
    from generated.application import app

    text = page("backend.md")
    for path, operations in app().openapi()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in text


def test_every_permission_is_in_the_reference():
    from headwater.backend.roles import GLOBAL_ROLES, SATELLITE_PERMISSIONS, TEAM_ROLES

    text = page("backend.md")
    roles = [*GLOBAL_ROLES.values(), *TEAM_ROLES.values(), SATELLITE_PERMISSIONS]
    for permission in set().union(*roles):
        assert f"| `{permission}` |" in text


def test_every_error_is_in_the_reference():
    """Also where errors are described by hand: the tree in the module's docstring."""
    from headwater import errors

    for name in errors.__all__:
        assert name in (errors.__doc__ or "") or name == "ResetReason"


def test_every_column_of_the_backend_is_in_the_reference():
    from headwater.backend.models import Base

    text = page("tables.md")
    for table in Base.metadata.tables.values():
        assert f"`{table.name}`" in text
        if table.name not in ("sessions", "api_keys") and not table.name.startswith("headwater"):
            row = next(line for line in text.splitlines() if f"`{table.name}`" in line[:60])
            for column in table.columns:
                if not column.name.startswith("headwater_"):
                    assert f"`{column.name}`" in row


def test_other_programs_may_write_with_the_sql_of_the_reference(tmp_path: Path):
    from headwater.backend.database import Address
    from headwater.backend.schema import migrate

    migrate(Address.parse(f"sqlite:///{tmp_path / 'headwater.db'}"))
    database = sqlite3.connect(tmp_path / "headwater.db")
    database.executescript(
        "INSERT INTO users (email, password_hash) VALUES ('ann@example.com', '');"
        "INSERT INTO teams (name) VALUES ('Delta');"
        "INSERT INTO satellites (name, key_hash) VALUES ('spring-01', 'a hash');"
    )
    for block in blocks(REFERENCE / "tables.md"):
        if block.language == "sql":
            database.executescript(block.code)
            database.executescript(block.code)
    for table, rows in {"log_entries": 2, "notifications": 4, "client_activity": 1}.items():
        numbers = [
            row[0] for row in database.execute(f"SELECT headwater_change FROM {table} ORDER BY 1")
        ]
        assert len(numbers) == rows
        assert all(numbers)
    assert database.execute("SELECT requests FROM client_activity").fetchall() == [(2,)]
    with pytest.raises(sqlite3.IntegrityError, match="set by Headwater alone"):
        database.execute("UPDATE log_entries SET headwater_change = 7")
    database.close()


def test_the_same_sql_is_good_on_postgresql(database: str):
    from headwater.backend.database import Address
    from headwater.backend.schema import migrate

    migrate(Address.parse(database))
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO users (email, password_hash) VALUES ('ann@example.com', '')"
        )
        connection.exec_driver_sql("INSERT INTO teams (name) VALUES ('Delta')")
        connection.exec_driver_sql(
            "INSERT INTO satellites (name, key_hash) VALUES ('spring-01', 'a hash')"
        )
        for block in blocks(REFERENCE / "tables.md"):
            if block.language == "sql":
                connection.exec_driver_sql(block.code)
                connection.exec_driver_sql(block.code)
        connection.exec_driver_sql("UPDATE log_entries SET headwater_change = '7'")
        for table, rows in {"log_entries": 2, "notifications": 4, "client_activity": 1}.items():
            changes = connection.exec_driver_sql(f"SELECT headwater_change FROM {table}")
            assert len({"7", "0"} | set(changes.scalars())) == 3  # all are of this transaction
            assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == rows
        counted = connection.exec_driver_sql("SELECT requests FROM client_activity").scalar()
        assert counted == 2
    engine.dispose()
