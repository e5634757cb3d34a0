"""Items are written by others and shown in a terminal: they must be readable, and harmless."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.cli.lines import in_colour, json_line, text_line


@pytest.mark.parametrize(
    ("item", "line"),
    [
        (
            {"id": "7", "level": "error", "message": "disk full", "at": "2026-01-01T00:00:00Z"},
            '2026-01-01T00:00:00Z level=error message="disk full" id=7',
        ),
        ({"created_at": "t", "at": "u", "n": 1.5}, "u created_at=t n=1.5"),
        ({"at": 5, "body": None}, "at=5"),
        ({"fields": {"a": [1]}, "ok": True}, 'fields={"a":[1]} ok=true'),
        ({"a": "", "b": "x=y", "c": 'say "hi"'}, 'a="" b="x=y" c="say \\"hi\\""'),
        ({"name": "Zoë"}, "name=Zoë"),
        ({}, ""),
    ],
)
def test_an_item_reads_as_a_line(item, line):
    assert text_line(item) == line


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "a\nb", "\x7f", "\x9b31m", "\u202egnp.exe", "\u2028", "\ud800"]
)
def test_what_could_move_the_cursor_or_hide_text_is_shown_as_its_number(text):
    assert text_line({"message": text}).isprintable()
    assert text_line({text: 1}).isprintable()
    assert json.loads(json_line({"message": text})) == {"message": text}
    assert json_line({"message": text}).isprintable()


@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False) | st.lists(st.text())))
def test_any_item_is_one_printable_line_and_json_survives(item):
    assert text_line(item).isprintable()
    line = json_line(item)
    assert line.isprintable()
    assert json.loads(line) == item


@pytest.mark.parametrize("item", [{}, {"level": "info"}, {"level": 7}, {"level": "other"}])
def test_what_is_normal_has_no_colour(item):
    assert in_colour(item, "line") == "line"


def test_each_other_level_has_a_colour_of_its_own():
    levels = ["debug", "success", "warning", "error", "critical"]
    lines = {in_colour({"level": level}, "line") for level in levels}
    assert len(lines - {"line"}) == 5
