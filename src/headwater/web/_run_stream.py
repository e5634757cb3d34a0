"""The stream of a run, for one client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from headwater.delivery._open_streams import OpenStreams
from headwater.delivery._sender import Headers, Sender
from headwater.delivery._stream import Stream
from headwater.errors import PositionError, ResetReason, SourceUnavailableError
from headwater.protocol import frame
from headwater.runs import RunEvent, RunReader, RunState

# Milliseconds after which a client reconnects.
RETRY = 2000
# Bytes after which one write ends, so that little waits for a client that reads slowly.
MOST_WRITTEN = 64 * 1024
# Characters of the output so far that are sent as one event with ``?fold=true``.
MOST_FOLDED = 1024 * 1024

# As ``json.dumps`` does it, which makes an encoder at each call.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class RunStream(Stream):
    """One open stream of a run.

    Attributes:
        left: whether the client ended the connection, and not the server.
    """

    __slots__ = ("_room", "left")

    def __init__(
        self, sender: Sender, streams: OpenStreams, *, heartbeat: float | None = None
    ) -> None:
        super().__init__(sender, streams, heartbeat=heartbeat)
        self.left = False
        self._room = asyncio.Event()

    def begin(
        self, state: RunState | None, reset: ResetReason | None, headers: Headers = ()
    ) -> None:
        """Send the response's head, ``retry``, ``reset`` if there is one, and the run's state."""
        self.commit(headers=headers)
        first = [b"retry: %d\n\n" % RETRY]
        if reset is not None:
            first.append(reset_frame(reset))
        if state is not None:
            first.append(state_frame(state))
        self.write(b"".join(first))

    async def follow(
        self,
        reader: RunReader,
        state: RunState,
        *,
        fold: bool,
        again: Callable[[], Any],
    ) -> None:
        """Send the events of the reader up to ``end``.

        Arguments:
            state: the state that ``begin`` has sent.
            fold: whether to send the output so far as one event.
            again: returns the run's present state and a new reader, or None if it was forgotten.
        """
        while not self.ended:
            try:
                async with aclosing(reader.events()) as groups:
                    await self._follow(groups, reader, state, fold=fold)
            except PositionError as error:
                found = await again()
                if found is None:
                    self.dismiss(RETRY)
                    return
                state, reader = found
                self.write(reset_frame(error.reason) + state_frame(state))
            except SourceUnavailableError:
                self.dismiss(RETRY)
            else:
                self.close()

    async def _follow(
        self,
        groups: AsyncIterable[Sequence[RunEvent]],
        reader: RunReader,
        state: RunState,
        *,
        fold: bool,
    ) -> None:
        queued = state.state == "queued"
        past = Folded() if fold else None
        async for group in groups:
            events = group
            if self.ended:
                return
            if queued and (claim := reader.fold.claim) is not None:
                queued = False
                state.state, state.claim = "running", claim
                self.write(state_frame(state))
            if past is not None:
                over = not events or events[-1].name == "end"
                events = past.take(events, over=over)
                past = None if over else past
            await self._send(events)

    async def _send(self, events: Sequence[RunEvent]) -> None:
        """Write events. Waits while so much is unread that the sender is full."""
        self._streams.counters.frames += len(events)
        frames: list[bytes] = []
        size = 0
        for place, event in enumerate(events, 1):
            frames.append(event_frame(event))
            size += len(frames[-1])
            if size < MOST_WRITTEN and place < len(events):
                continue
            self.write(b"".join(frames))
            frames, size = [], 0
            while self.sender.full and not self.ended:
                self._room.clear()
                await self._room.wait()
            if self.ended:
                return

    def idle(self) -> None:
        self._room.set()

    def lost(self) -> None:
        self.left = self.left or not self.ended
        super().lost()

    def abort(self, why: str) -> None:
        self.left = self.left or not (self.ended or self._streams.draining)
        super().abort(why)

    def _end(self) -> None:
        super()._end()
        self._room.set()


class Folded:
    """The output so far as one text. The user's own events of the past are left out.

    Attributes:
        size: the number of its characters.
    """

    def __init__(self) -> None:
        self.size = 0
        self._texts: list[str] = []
        self._last: RunEvent | None = None

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def add(self, event: RunEvent) -> None:
        """Add a piece of the output, or begin anew when a queue tries again."""
        if event.name == "delta":
            self._texts.append(event.data["text"])
            self.size += len(event.data["text"])
        elif event.name == "restart":
            self._texts.clear()
            self.size = 0

    def take(self, events: Sequence[RunEvent], *, over: bool) -> list[RunEvent]:
        """Take the next past events. Returns the events to send; ``over`` marks the last call."""
        made: list[RunEvent] = []
        for event in events:
            if event.name == "end":
                return [*made, *self._whole(), event]
            self._last = event
            self.add(event)
            if event.name == "restart":
                made.append(event)
            if self.size > MOST_FOLDED:
                made += self._whole()
        return [*made, *self._whole()] if over else made

    def _whole(self) -> list[RunEvent]:
        last, self._last = self._last, None
        # Without text there is nothing to send: a client that comes back is given the same again.
        if last is None or not self.size:
            return []
        data = {"text": self.text}
        self._texts.clear()
        self.size = 0
        return [RunEvent("delta", data, last.number, last.id)]


async def text_so_far(reader: RunReader) -> str | None:
    """The output so far as one text; None if it is longer than ``MOST_FOLDED``."""
    folded = Folded()
    async with aclosing(reader.events()) as groups:
        async for events in groups:
            for event in events:
                folded.add(event)
            if folded.size > MOST_FOLDED:
                return None
            if not events:
                break
    return folded.text


def event_frame(event: RunEvent) -> bytes:
    """An event's bytes, made once for all streams."""
    made = event.encoded.get("sse")
    if made is None:
        made = event.encoded["sse"] = frame(event.name, event.id, to_bytes(event.data))
    return made


def state_frame(state: RunState) -> bytes:
    """The ``run`` event. It has no id, because it is not a position to resume from."""
    return frame("run", None, to_bytes(state.public()))


def reset_frame(reason: ResetReason) -> bytes:
    """The ``reset`` event. After it, the events follow from the start of the run."""
    return frame("reset", None, b'{"reason":"%b"}' % reason.encode())


def to_bytes(value: Any) -> bytes:
    """A JSON value in UTF-8."""
    return _encode(value).encode()
