"""Reading and trimming one topic's records in a stream that has the records of all topics.

JetStream reads forwards only. With each message it says how many of the same subject follow. So the
newest N are found by a search for the message with which they begin.

A trim stores the highest sequence that it will remove before it removes anything. So a reader that
finds a gap finds the reason too. If the trim is interrupted in between, a later one removes the
rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from nats.aio.msg import Msg

from headwater.eventlog._record import WHOLE, Retention
from headwater.eventlog.nats._stream import KEY, ApiError, Stream, sequence_of

# The search ends at up to so many records too many: to read these costs less than to go on.
SLACK = 20
# Records per request.
MOST = 500
# The server's largest sequence.
LAST = 2**64 - 1


class Pages:
    """Reads of a stream's subjects. Raises SourceUnavailableError."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def after(self, subject: str, sequence: int, count: int) -> list[Msg]:
        """The first messages of a subject after a sequence, at most ``count``."""
        found: list[Msg] = []
        while len(found) < count and sequence < LAST:
            request = {
                "seq": sequence + 1,
                "next_by_subj": subject,
                "batch": min(count - len(found), MOST),
            }
            *messages, _ = await self._stream.get(request)
            found += messages
            # The server ends an answer early if it grows too large.
            if not messages or not _behind(messages[-1]):
                break
            sequence = sequence_of(messages[-1])
        return found

    async def between(
        self, subject: str, sequence: int, below: int = LAST, likely: int = MOST
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

        ``at_end``: a moment ago there was no message from ``below`` on. It saves a request.
        """
        found: list[Msg] = []
        # Messages that arrive meanwhile count as if they were below: then search further back.
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
        """The sequence of the oldest of the newest ``count``; 0 if there are no others."""
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
                # As if the messages were spread evenly, and somewhat further back.
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


# The server's errors of a stream that is full: of bytes, of messages, of resources.
FULL = {10077, 10122, 10047, 10023}


class Trimmer:
    """Removes the oldest events. Raises SourceUnavailableError."""

    def __init__(self, stream: Stream, pages: Pages) -> None:
        self._stream = stream
        self._pages = pages

    async def topics(self, keep: Retention) -> Sequence[str]:
        """The topics that may have something to remove."""
        await self._stream.ready()
        counts: dict[str, int] = {}
        more = True
        while more:
            info = await self._stream.call(
                "INFO", {"subjects_filter": f"{self._stream.name}.t.*", "offset": len(counts)}
            )
            subjects = info["state"].get("subjects") or {}
            counts |= {self._stream.topic(one): count for one, count in subjects.items()}
            more = bool(subjects) and len(counts) < info.get("total", 0)
        only_count = keep.max_age is None and keep.max_bytes is None
        fewest = (keep.max_count or 0) if only_count else 0
        return [
            name for name, count in counts.items() if count > fewest and not name.startswith(WHOLE)
        ]

    async def trim(self, topic: str, keep: Retention) -> int:
        """Trim a topic. Returns how many events were removed."""
        subject = self._stream.subject("t", topic)
        bounds = (await self._stream.states([topic])).topics[topic]
        below = bounds.latest[0] + 1
        cut = await self._cut_of(subject, below, keep)
        if cut <= bounds.earliest[0] + 1:
            return 0
        going = await self._pages.newest(subject, cut, 1)
        if not going:
            return 0
        highest = sequence_of(going[0])
        purge = {"filter": subject, "seq": highest + 1}
        is_full = False
        try:
            await self._keep_keys(topic, subject, highest)
            await self._remember(topic, highest)
        except ApiError as error:
            if error.code not in FULL:
                raise
            # Without room for a note, room is made first. Positions that this removes are then
            # unknown rather than expired.
            is_full = True
        answer = await self._stream.call("PURGE", purge)
        if is_full:
            await self._remember(topic, highest)
        return int(answer.get("purged", 0))

    async def forget(self, topic: str) -> None:
        """Remove a topic's events and the note of its trims."""
        await self._stream.ready()
        for kind in "ts":
            await self._stream.call("PURGE", {"filter": self._stream.subject(kind, topic)})

    async def _keep_keys(self, topic: str, subject: str, highest: int) -> None:
        """Note the keys of young events that are removed. A server that restarts forgets those."""
        young = await self._stream.server_time() - self._stream.keys_kept
        first = await self._pages.since(subject, young)
        if first is None or first > highest:
            return
        keys = {
            key
            async for one in self._pages.between(subject, first - 1, highest + 1)
            if (key := (one.headers or {}).get(KEY)) is not None
        }
        for key in keys:
            name = self._stream.key_subject(topic, key)
            await self._stream.replace(name, b"0", headers=self._stream.key_headers())

    async def _cut_of(self, subject: str, below: int, keep: Retention) -> int:
        """The sequence of the first event that stays, by the strictest of the limits."""
        cut = 0
        if keep.max_count is not None:
            if keep.max_count == 0:
                cut = below
            else:
                cut = await self._pages.boundary(subject, below, keep.max_count)
        if keep.before is not None:
            cut = max(cut, min(keep.before[0], below))
        if keep.max_age is not None:
            oldest = keep.oldest(await self._stream.server_time())
            first = await self._pages.since(subject, oldest)
            cut = max(cut, below if first is None else min(first, below))
        if keep.max_bytes is not None:
            sizes = [
                (sequence_of(one), len(one.data))
                async for one in self._pages.between(subject, 0, below)
            ]
            left = keep.max_bytes
            for sequence, size in reversed(sizes):
                left -= size
                if left < 0:
                    cut = max(cut, sequence + 1)
                    break
        return cut

    async def _remember(self, topic: str, highest: int) -> None:
        """Store the highest sequence trimmed, unless a higher one is stored."""
        subject = self._stream.subject("s", topic)
        is_stored = False
        while not is_stored:
            stored = await self._stream.last(subject)
            if stored is not None and int(stored.data) >= highest:
                return
            sequence = 0 if stored is None else sequence_of(stored)
            is_stored = await self._stream.replace(subject, str(highest).encode(), sequence)
