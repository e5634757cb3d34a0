"""Open streams and tails of this process and of those that share its event log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from headwater.backend.streams.schemas import OpenStream, StreamList, Tail, TailList
from headwater.backend.streams.siblings import Siblings
from headwater.eventlog import EventLog
from headwater.web.fastapi import LiveRouter, StreamInfo

M = TypeVar("M", bound=BaseModel)

# Characters of an address that another process is sent: an event has a bound.
_LONGEST_ADDRESS = 2_000


class Streams:
    """Answers for all processes: asks the others, and answers them."""

    def __init__(self, live: LiveRouter, log: EventLog) -> None:
        self._live = live
        self._worker = os.getpid()
        self.siblings = Siblings(log, self._answer)

    async def page(self, after: int, limit: int) -> StreamList:
        """The first streams after an id, without their users' e-mail addresses."""
        own = self._page(after, limit)
        question = {"about": "streams", "after": after, "limit": limit}
        pages = [own, *_fitting(StreamList, await self.siblings.ask(question))]
        streams = sorted(
            (one for page in pages for one in page.streams), key=lambda one: int(one.id)
        )
        return StreamList(
            workers=sorted(worker for page in pages for worker in page.workers),
            open=sum(page.open for page in pages),
            dropped=sum(page.dropped for page in pages),
            streams=streams[:limit],
            has_more=len(streams) > limit or any(page.has_more for page in pages),
        )

    async def tails(self) -> TailList:
        """What is read, by name and process."""
        own = self._tails()
        lists = [own, *_fitting(TailList, await self.siblings.ask({"about": "tails"}))]
        tails = [tail for each in lists for tail in each.tails]
        return TailList(
            workers=sorted(worker for each in lists for worker in each.workers),
            tails=sorted(tails, key=lambda tail: (tail.name, tail.worker)),
        )

    async def close(self, stream_id: str) -> bool:
        """End a stream; False if no process has it."""
        if self._live.close_stream(stream_id):
            return True
        answers = await self.siblings.ask({"about": "close", "id": stream_id})
        return any(answer.get("closed") for answer in answers)

    def _answer(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        match question:
            case {"about": "streams", "after": int(after), "limit": int(limit)}:
                return self._page(after, limit).model_dump(mode="json")
            case {"about": "tails"}:
                return self._tails().model_dump(mode="json")
            case {"about": "close", "id": str(stream_id)}:
                return {"closed": self._live.close_stream(stream_id)}
        # A newer version may ask for more.
        return {}

    def _page(self, after: int, limit: int) -> StreamList:
        # By number, as the last stream of the page before may have ended meanwhile.
        found = [each for each in self._live.streams() if int(each.id) > after]
        stats = self._live.stats
        return StreamList(
            workers=[self._worker],
            open=stats.open,
            dropped=stats.stalled + stats.overrun,
            streams=[self._shown(each) for each in islice(found, limit)],
            has_more=len(found) > limit,
        )

    def _tails(self) -> TailList:
        tails = [Tail(worker=self._worker, **asdict(each)) for each in self._live.tails()]
        return TailList(workers=[self._worker], tails=tails)

    def _shown(self, stream: StreamInfo) -> OpenStream:
        users = (each.removeprefix("user:") for each in stream.subjects if each.startswith("user:"))
        return OpenStream(
            **asdict(replace(stream, address=stream.address[:_LONGEST_ADDRESS])),
            worker=self._worker,
            user_id=next(users, None),
            email=None,
        )


def _fitting(model: type[M], answers: Iterable[Mapping[str, Any]]) -> Iterator[M]:
    """The answers in this version's form; other versions may have others."""
    for answer in answers:
        with suppress(ValidationError):
            yield model.model_validate(answer)
