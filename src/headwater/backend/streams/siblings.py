"""The other processes that share the event log: when one asks, each of them answers.

A question and its answers are events of one topic. So no process needs the address of another. It
works on every engine but memory, where a process is alone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from headwater.errors import HeadwaterError, ResetReason
from headwater.eventlog import Bounds, EventLog, Record

logger = logging.getLogger("headwater.backend")

_TOPIC = "headwater:streams"
# Seconds that a question waits for the known processes. One that does not answer is forgotten.
_WITHIN = 1.0
# Seconds that the first question waits for processes that are not known yet.
_ANYONE_WITHIN = 0.3
# Seconds between tries to follow the topic while the engine is away.
_RETRY = 1.0
# Questions and answers are kept for this time; nobody reads them later.
_KEPT = timedelta(minutes=1)
# Questions that wait at the same time. Further ones are not asked.
_MOST = 32

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class _Question:
    def __init__(self) -> None:
        self.answers: dict[str, Mapping[str, Any]] = {}
        self.news = asyncio.Event()


class Siblings:
    """One process among those that share an event log.

    Arguments:
        log: the event log.
        answer: answers a question of another process. It is called in the event loop, and must
            not block.
    """

    def __init__(self, log: EventLog, answer: Answer) -> None:
        self._log = log
        self._answer = answer
        self._name = secrets.token_hex(8)
        # The processes that asked or answered lately. A question waits for these, and the first
        # question for any. A new process answers too, and the next question waits for it.
        self._known: set[str] = set()
        self._has_asked = False
        self._questions: dict[str, _Question] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Follow the topic, in the background. With an engine of one process nobody is asked."""
        if self._log.capabilities.multi_process:
            self._run(self._join())

    async def stop(self) -> None:
        """Follow it no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        with suppress(HeadwaterError):
            await self._log.unfollow(_TOPIC, self)

    async def ask(self, question: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The answers of the other processes, within a second. None while the engine is away."""
        if len(self._questions) >= _MOST or not self._log.capabilities.multi_process:
            return []
        number = secrets.token_hex(8)
        asked = self._questions[number] = _Question()
        waits_for = set(self._known)
        anyone = not self._has_asked
        self._has_asked = True
        try:
            async with asyncio.timeout(_WITHIN if waits_for else _ANYONE_WITHIN):
                await self._log.append(
                    _TOPIC, {"by": self._name, "ask": number, "question": dict(question)}
                )
                await self._log.trim(_TOPIC, max_age=_KEPT)
                while anyone or waits_for - asked.answers.keys():
                    asked.news.clear()
                    await asked.news.wait()
        except TimeoutError:
            self._known -= waits_for - asked.answers.keys()
        except HeadwaterError as error:
            logger.warning("the other processes cannot be asked: %s", error)
        finally:
            del self._questions[number]
        return list(asked.answers.values())

    def deliver(self, records: Sequence[Record]) -> None:
        """Take the answers of other processes, and answer their questions."""
        for said in (record.data for record in records):
            by = said.get("by")
            if not isinstance(by, str) or by == self._name:
                continue
            self._known.add(by)
            if isinstance(said.get("question"), Mapping):
                self._run(self._reply(said))
            elif (asked := self._questions.get(str(said.get("to")))) is not None:
                asked.answers[by] = said["answer"]
                asked.news.set()

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """Do nothing: other processes trim the topic, and a lost question is asked again."""

    async def _join(self) -> None:
        while True:
            try:
                await self._log.follow(_TOPIC, self)
            except HeadwaterError:
                await asyncio.sleep(_RETRY)
            else:
                return

    async def _reply(self, said: Mapping[str, Any]) -> None:
        answer = {"by": self._name, "to": said["ask"], "answer": self._answer(said["question"])}
        try:
            await self._log.append(_TOPIC, answer)
        except HeadwaterError as error:
            logger.warning("a question of another process cannot be answered: %s", error)

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
