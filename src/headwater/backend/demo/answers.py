"""The demo's "ask" box: a scripted model, whose answers are runs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Annotated

from pydantic import BaseModel, Field

from headwater.backend.auth.dependencies import CurrentUser
from headwater.runs import Run, Runs
from headwater.web.fastapi import LiveRouter

# Seconds between words: as a model writes, and long enough to reload the page meanwhile.
_PACE = (0.03, 0.22)

_ANSWERS = {
    ("kill", "die", "dead", "crash", "lost", "server"): (
        "Press Wire on any panel, and then Kill the server. Every feed goes on at its "
        "position, and nothing is lost. An answer that is being written is another "
        "matter: the process that wrote it is gone. So within some seconds this answer "
        "says that it is lost. It does not stand here for ever as if somebody were still "
        "writing. That is what a run promises: it always ends with one word, and "
        "everybody gets it."
    ),
    ("reload", "tab", "page", "twice", "phone"): (
        "Reload this page now. The answer goes on, because the request that began it does "
        "not carry it. Each word is stored in an event log as it comes, and the page "
        "reads from there. Open the page in a second tab: both show the same words. One "
        "that comes late gets what was written so far in one piece, and then every new "
        "word as it is made."
    ),
    ("stop", "cancel"): (
        "Press Stop and I stop within a second, whichever process writes me. The page may "
        "be closed, the request long over: the word to stop goes through the event log "
        "too. What was written until then stays, and the answer says that it was stopped. "
        "You have still not pressed it. I can go on for quite some time, you know. "
        "Another sentence." + 100 * " And another one."
    ),
}
_OTHERWISE = (
    "I am not a model, only a script: I say the same to everybody. But my words travel as "
    "those of a model do. A request began this answer, and it was over before my first "
    "word. The words are stored in an event log, at most twenty times a second however "
    "fast they come. This page follows them, as any number of others could. Reload it "
    "while I write. Open it twice. Press Stop. Or ask me what happens when the server is "
    "killed."
)


class Question(BaseModel):
    """What is asked. The list of answers shows it as the group."""

    text: Annotated[str, Field(min_length=1, max_length=200)]


def script(question: str) -> str:
    """The whole answer."""
    words = question.casefold()
    for keys, answer in _ANSWERS.items():
        if any(key in words for key in keys):
            return answer
    return _OTHERWISE


async def _model(question: str) -> AsyncIterator[str]:
    draw = random.Random()
    for number, word in enumerate(script(question).split(" ")):
        await asyncio.sleep(draw.uniform(*_PACE))
        yield word if number == 0 else f" {word}"


async def _user_id(user: CurrentUser) -> str:
    return str(user.id)


def declare(live: LiveRouter, runs: Runs) -> None:
    """The routes of answers."""

    @live.run("/answers", runs, owner=_user_id, group="text", tags=["demo"])
    async def answer(run: Run, question: Question) -> None:
        """Ask the scripted model."""
        async for word in _model(question.text):
            await run.delta(word)
