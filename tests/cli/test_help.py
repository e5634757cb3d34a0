"""``headwater COMMAND --help`` shows what a command's options say, in full."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import headwater
from headwater.cli import application

COMMANDS = {
    (name, *inner): found
    for name, command in get_command(application()).commands.items()
    for inner, found in (
        [((each,), one) for each, one in command.commands.items()]
        if hasattr(command, "commands")
        else [((), command)]
    )
}


def words(text: str) -> str:
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_shows_all_that_an_option_says(command: tuple[str, ...]):
    """The terminal takes words in square brackets for its own markup, and drops them."""
    shown = CliRunner().invoke(application(), [*command, "--help"], env={"COLUMNS": "500"}).output
    for parameter in COMMANDS[command].params:
        assert words(parameter.help or "") in words(shown)


def test_the_version_can_be_asked_for():
    assert CliRunner().invoke(application(), ["--version"]).output == f"{headwater.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_its_lines_are_as_long_as_the_terminal(command: tuple[str, ...]):
    """Those of the docstring are longer than 80 characters, so each would be one and a half."""
    shown = CliRunner().invoke(application(), [*command, "--help"], env={"COLUMNS": "80"}).output
    prose = shown.partition("╭")[0].splitlines()
    for line, after in pairwise(one.strip() for one in prose):
        if line and after:
            assert len(f"{line} {after.split()[0]}") > 78, line
