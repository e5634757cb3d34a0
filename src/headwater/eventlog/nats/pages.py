"""Finding and reading one topic's records among those of all topics in a stream.

JetStream reads forwards only, and says with each message how many of its subject follow it. So the
newest N are found by a search for the message where they begin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from nats.aio.msg import Msg

from headwater.eventlog.nats.stream import Stream, sequence_of

__all__ = ["Pages"]

# So many records too many are read rather than searching on for where they begin.
SLACK = 20
# Records per request.
MOST = 500
_LAST = 2**64 - 1


class Pages:
    """Reads of a stream's subjects. Raises SourceUnavailableError."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def after(self, subject: str, sequence: int, count: int) -> list[Msg]:
        """The first messages of a subject after a sequence, as many as there are up to count."""
        found: list[Msg] = []
        while len(found) < count and sequence < _LAST:
            request = {
                "seq": sequence + 1,
                "next_by_subj": subject,
                "batch": min(count - len(found), MOST),
            }
            *messages, _ = await self._stream.get(request)
            found += messages
            # The server ends an answer early that grows too large.
            if not messages or not _behind(messages[-1]):
                break
            sequence = sequence_of(messages[-1])
        return found

    async def between(
        self, subject: str, sequence: int, below: int, likely: int = MOST
    ) -> AsyncIterator[Msg]:
        """Every message of a subject after a sequence and below another one, oldest first."""
        while messages := await self.after(subject, sequence, min(likely, MOST)):
            for message in messages:
                sequence = sequence_of(message)
                if sequence >= below:
                    return
                yield message

    async def since(self, subject: str, moment: datetime) -> int | None:
        """The sequence of the first message that was stored at a moment or later."""
        text = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        messages = await self._stream.get({"start_time": text, "next_by_subj": subject, "batch": 1})
        return sequence_of(messages[0]) if len(messages) > 1 else None

    async def newest(
        self, subject: str, below: int, count: int, *, at_end: bool = False
    ) -> list[Msg]:
        """The newest messages of a subject below a sequence, oldest first.

        With ``at_end`` there was nothing from ``below`` on a moment ago, which saves a request.
        """
        found: list[Msg] = []
        # What is appended meanwhile counts as if it were below: then search further back.
        for more in (0, SLACK, 200 * SLACK):
            beyond = 0 if at_end else (await self._first_from(subject, below))[1]
            first, behind = await self._first_from(subject, 1)
            if behind <= beyond:
                return []
            start, behind = await self._begin(subject, first, below, behind, beyond, count + more)
            likely = behind - beyond + 1
            found = [one async for one in self.between(subject, start - 1, below, likely)]
            if len(found) >= count or start == first:
                break
        return found[-count:]

    async def boundary(self, subject: str, below: int, count: int) -> int:
        """The sequence of the oldest of the newest ``count``; 0 if there are no more than that."""
        first, behind = await self._first_from(subject, 1)
        if behind <= count:
            return 0
        start, behind = await self._begin(subject, first, below, behind, 0, count)
        messages = await self.after(subject, start - 1, behind - count + 1)
        return sequence_of(messages[-1]) if messages else 0

    async def _begin(
        self, subject: str, first: int, below: int, behind: int, beyond: int, count: int
    ) -> tuple[int, int]:
        """A sequence from which there are ``count`` messages up to ``below``, or a few more.

        ``behind`` are the messages from ``first`` on, ``beyond`` those from ``below`` on. Returns
        the sequence and the messages from it on.
        """
        low, high, fewer = first, below, beyond
        halve = False
        while behind - beyond > count + SLACK and high - low > 1:
            if halve:
                guess = (low + high) // 2
            else:
                # As if they were spread evenly, and somewhat further back.
                share = (count + SLACK / 2 - (fewer - beyond)) / (behind - fewer)
                guess = high - int((high - low) * share)
            halve = not halve
            guess = min(max(guess, low + 1), high - 1)
            found, left = await self._first_from(subject, guess)
            if left - beyond >= count:
                low, behind = found, left
            else:
                high, fewer = guess, left
        return low, behind

    async def _first_from(self, subject: str, sequence: int) -> tuple[int, int]:
        """The first message at a sequence or later, and how many there are from it on."""
        messages = await self.after(subject, sequence - 1, 1)
        if not messages:
            return sequence, 0
        return sequence_of(messages[0]), _behind(messages[0]) + 1


def _behind(message: Msg) -> int:
    return int((message.headers or {}).get("Nats-Num-Pending", 0))
