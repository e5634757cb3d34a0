"""``headwater users add``."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from support.command import refused, run, url_of


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IGNORED", "1")
    return tmp_path / "headwater.db"


def add(database: Path, email: str, *options: str, stdin: str = "a good secret\n") -> str:
    code, output = run("users", "add", email, *options, "--database", url_of(database), stdin=stdin)
    assert code == 0, output
    return output


def rows(database: Path) -> list[tuple[str, str, str]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute("SELECT email, role, password_hash FROM users").fetchall()
    finally:
        connection.close()


def test_the_first_administrator(database: Path):
    """On a database that is not there yet: it is the first thing one does."""
    add(database, " Ann@Example.com", "--role", "global_admin", "--password-stdin")
    [(email, role, stored)] = rows(database)
    assert (email, role) == ("ann@example.com", "global_admin")
    assert stored.startswith("$argon2id$")


def test_an_ordinary_user_by_default(database: Path):
    add(database, "bob@example.com", "--password-stdin")
    assert rows(database)[0][1] == "global_user"


def test_only_the_first_line_counts(database: Path):
    from headwater.backend.auth.passwords import Passwords

    add(database, "bob@example.com", "--password-stdin", stdin="first line\r\nsecond\n")
    passwords = Passwords(time_cost=1, memory_kib=8, concurrency=1)
    assert asyncio.run(passwords.verify(rows(database)[0][2], "first line"))
    passwords.close()


@pytest.mark.parametrize(
    ("email", "options", "stdin", "says"),
    [
        ("bob@example.com", ("--role", "king", "--password-stdin"), "x" * 9, "global_admin"),
        ("bob", ("--password-stdin",), "x" * 9, "not an e-mail address"),
        # Before it asks for the password.
        ("bob", (), "", "not an e-mail address"),
        ("bob@example.com", ("--password-stdin",), "", "standard input"),
        ("bob@example.com", ("--password-stdin",), "abc", "at least 4 characters"),
        ("bob@example.com", (), "", "--password-stdin"),
    ],
)
def test_what_cannot_be_is_one_sentence(database: Path, email, options, stdin, says):
    sentence = refused("users", "add", email, *options, "--database", url_of(database), stdin=stdin)
    assert says in sentence


def test_an_address_is_taken_once(database: Path):
    add(database, "bob@example.com", "--password-stdin")
    again = ("users", "add", "BOB@example.com", "--password-stdin", "--database", url_of(database))
    assert "already" in refused(*again, stdin="a good secret\n")
    assert len(rows(database)) == 1


def test_it_asks_twice_where_there_is_a_terminal(database: Path, monkeypatch: pytest.MonkeyPatch):
    import headwater.cli.users as users

    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    asked = []
    monkeypatch.setattr(users.sys, "stdin", Terminal)
    monkeypatch.setattr(
        users.typer, "prompt", lambda text, **options: asked.append(options) or "a good secret"
    )
    users.add("bob@example.com", "global_user", password_stdin=False, database=url_of(database))
    assert asked == [{"hide_input": True, "confirmation_prompt": True}]
    assert len(rows(database)) == 1
