"""A run as the stream of another protocol: the common part of the adapters for clients."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from typing import Any

from headwater.delivery._event_stream import EventStream
from headwater.errors import PositionError, RunClaimError, SourceUnavailableError
from headwater.feeds._clock import utc_now
from headwater.protocol import Event
from headwater.runs import RunEvent, Runs, RunState

_log = logging.getLogger(__name__)

INTERRUPTED = "The stream was interrupted. The answer may not be complete."
_RESTARTED = "The work began again. Load the answer again."

# Seconds between tries while the event log is away.
_SHORTEST, _LONGEST = 0.1, 2.0

Frame = Mapping[str, Any] | str


class Translation(ABC):
    """Makes frames of a protocol from the events of a run, from its start.

    Deltas of the run go into the text part that is open, or into one that the translation opens.

    Arguments:
        run_id: begins the ids of the text parts that it opens.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._texts = 0
        # The parts that are open, in order, each with the frame that closes it.
        self._open: dict[object, Frame] = {}
        # The text part that deltas go into, and whether the translation opened it.
        self._text: str | None = None
        self._own = False

    def _begin_text(self) -> str:
        """The id of a text part that the translation opens."""
        self._texts += 1
        self._own = True
        self._text = f"{self._run_id}-{self._texts}"
        return self._text

    def _close(self) -> list[Frame]:
        """The frames that close all open parts."""
        frames = [*reversed(self._open.values())]
        self._open.clear()
        self._text, self._own = None, False
        return frames

    @abstractmethod
    def begin(self) -> Iterable[Frame]:
        """The frames at the beginning of the stream."""

    @abstractmethod
    def take(self, event: RunEvent) -> Iterable[Frame]:
        """The frames for an event that is neither ``restart`` nor ``end``."""

    @abstractmethod
    def end(self, state: RunState) -> Iterable[Frame]:
        """The frames for the end of the run."""

    @abstractmethod
    def interrupt(self, reason: str) -> Iterable[Frame]:
        """The frames for a stream that ends before its run, so that the client can show that."""


async def translated(
    runs: Runs, run_id: str, translation: Translation
) -> AsyncIterator[Iterable[Frame]]:
    """The frames of a run, in groups, from its start to its end.

    A run that a queue tried several times begins with its latest attempt. Raises RunClaimError
    for an unknown run.
    """
    state = await runs.state(run_id)
    if state is None:
        raise RunClaimError(run_id, "unknown")
    attempt = 1
    yield translation.begin()
    try:
        async for event in _followed(runs, run_id):
            if event.name == "restart":
                attempt = event.data["attempt"]
                if attempt > max(state.attempt, 1):
                    yield translation.interrupt(_RESTARTED)
                    return
            elif event.name == "end":
                yield translation.end(await _ended(runs, run_id, state, event))
                return
            elif attempt >= state.attempt:
                yield translation.take(event)
    except PositionError as error:
        _log.warning("run %s was forgotten while it was followed: %s", run_id, error)
    yield translation.interrupt(INTERRUPTED)


def is_over(state: RunState, seconds: float) -> bool:
    """Whether a run ended longer ago than this."""
    return state.ended_at is not None and utc_now() - state.ended_at > timedelta(seconds=seconds)


async def _followed(runs: Runs, run_id: str) -> AsyncIterator[RunEvent]:
    """The events of a run. It waits while the log is away."""
    after, delay = None, _SHORTEST
    while True:
        try:
            async for event in runs.follow(run_id, after=after):
                after, delay = event.id, _SHORTEST
                yield event
        except SourceUnavailableError as error:
            _log.info("the stream of run %s waits for the log: %s", run_id, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST)
        else:
            return


async def _ended(runs: Runs, run_id: str, known: RunState, event: RunEvent) -> RunState:
    """The run's last state, with its result and error unless it was forgotten meanwhile."""
    while True:
        try:
            found = await runs.state(run_id)
        except SourceUnavailableError:
            await asyncio.sleep(_SHORTEST)
            continue
        if found is None:
            known.state = event.data["state"]
        return found or known


async def respond(stream: EventStream, runs: Runs, run_id: str, translation: Translation) -> None:
    """Send a run to a client, up to its end. Ends early with the stream."""

    async def send() -> None:
        async for frames in translated(runs, run_id, translation):
            for frame in frames:
                if not await stream.send(Event(data=frame)):
                    return

    task = asyncio.ensure_future(send())
    stream.on_close(task.cancel)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
    if not task.cancelled():
        task.result()
