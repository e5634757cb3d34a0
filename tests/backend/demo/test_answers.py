"""The demo's scripted model says something to everybody."""

from __future__ import annotations

import pytest

from headwater.backend.demo.answers import script


@pytest.mark.parametrize(
    ("question", "begins"),
    [
        ("What if the SERVER is killed?", "Press Wire"),
        ("May I reload?", "Reload this page"),
        ("How do I stop you?", "Press Stop"),
        ("Hello", "I am not a model"),
    ],
)
def test_it_answers_by_the_words_of_the_question(question: str, begins: str) -> None:
    assert script(question).startswith(begins)
    assert len(script(question).split()) > 60, "long enough to reload the page meanwhile"
