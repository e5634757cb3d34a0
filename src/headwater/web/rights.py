"""The rights of open streams: each is checked again, once for all streams that are alike.

A right stands for one caller on one route with the same parameters. However many streams hold it,
it is checked once at a time, so its cost does not grow with the number of tabs that a user opens.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from headwater.delivery.open_streams import OpenStreams
from headwater.delivery.small_set import EMPTY, SmallSet, with_one, without

__all__ = [
    "CHANGED",
    "RECHECK",
    "Holder",
    "RememberedRequest",
    "Right",
    "Rights",
    "Verdict",
    "verdict_of",
]

logger = logging.getLogger("headwater.web")

# What a check answers: None when all is as before, CHANGED when the caller may go on but with
# other items, else the HTTP status that a new request would get.
Verdict = int | None
CHANGED = 0

# The contract says at least every 30 s; a check takes a moment.
INTERVAL = 25.0
# The rights are checked in so many groups, one after another, so that the checks of thousands do
# not come in one moment and keep deliveries waiting. On a short interval there are fewer.
_GROUPS = 64
_SHORTEST = 0.05
# Checks of one group that run at once: enough for their look-ups to share a statement, few enough
# to take some milliseconds.
_AT_ONCE = 32
# Seconds that one check may take: one that hangs must not keep all others waiting.
_CHECK_TIMEOUT = 10.0
# Seconds that a stream may go on while its right cannot be checked.
_PATIENCE = 300.0


class Holder(Protocol):
    """A response that may go on only while its right holds: a stream, or a poll that waits.

    Attributes:
        ended: the response is over.
        lease: the right that it holds.
    """

    ended: bool
    lease: Any

    def __hash__(self) -> int: ...

    def fail(self, status: int) -> None:
        """End the response with this status."""
        ...

    def dismiss(self, retry: int) -> None:
        """End the response; the client comes back after ``retry`` milliseconds."""
        ...


@dataclass(eq=False, slots=True)
class Right:
    """The right of some streams to go on.

    Attributes:
        check: checks it again.
        subjects: on whose behalf; see ``identify``.
        streams: the responses that hold it.
        group: when it is checked.
        checking: how many checks of it are running or waiting.
        unanswered_since: the loop's time since which it could not be checked, or None.
        rights: where it is kept.
    """

    name: Hashable
    check: Callable[[], Awaitable[Verdict]]
    subjects: tuple[str, ...]
    streams: SmallSet[Holder]
    rights: Rights
    group: int
    checking: int = 0
    unanswered_since: float | None = None

    def release(self, stream: Holder) -> None:
        """Forget a stream that has ended."""
        self.rights.forget(self, stream)


class Rights:
    """The rights of all open streams of one event loop.

    Attributes:
        rechecks: how often ``recheck`` was called. A request notes it before its guards run: when
            it has grown by the time the stream opens, the guards' answer may be out of date.
    """

    def __init__(self, streams: OpenStreams, *, interval: float = INTERVAL) -> None:
        self._streams = streams
        self._interval = interval
        self._rights: dict[Hashable, Right] = {}
        self._by_subject: dict[str, SmallSet[Right]] = {}
        many = min(_GROUPS, max(1, int(min(interval, 60.0) / _SHORTEST)))
        self._groups: list[set[Right]] = [set() for _ in range(many)]
        self._next = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.rechecks = 0

    def hold(
        self,
        stream: Holder,
        name: Hashable,
        check: Callable[[], Awaitable[Verdict]],
        subjects: tuple[str, ...],
        rechecks: int,
    ) -> None:
        """Let ``stream`` go on for as long as ``check`` says so.

        Arguments:
            name: equal for streams whose rights are the same question.
            rechecks: as it was before the stream's guards ran.
        """
        if stream.ended:
            return
        right = self._rights.get((name, subjects))
        if right is None:
            # At random: streams that were opened in one moment are not checked in one moment.
            group = random.randrange(len(self._groups))
            right = Right((name, subjects), check, subjects, EMPTY, self, group)
            self._rights[right.name] = right
            self._groups[group].add(right)
            for subject in subjects:
                held = self._by_subject.get(subject, EMPTY)
                self._by_subject[subject] = with_one(held, right)
        right.streams = with_one(right.streams, stream)
        stream.lease = right
        if rechecks != self.rechecks:
            # The right may have been taken away since the guards ran.
            self._streams.run(self._check_each((right,)), "checking the rights of a stream")
        if self._timer is None and self._interval < math.inf:
            self._due = asyncio.get_running_loop().time()
            self._arm()

    async def recheck(self, subject: str | None = None) -> None:
        """Check again now: for one subject, or for all."""
        self.rechecks += 1
        rights: Iterable[Right] = (
            self._rights.values() if subject is None else self._by_subject.get(subject, ())
        )
        await self._check_each(rights)

    def close(self) -> None:
        """Check no more."""
        self._interval = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return len(self._rights)

    def _arm(self) -> None:
        # At random: processes that started together do not check together. A late turn on a busy
        # machine does not delay the turns after it.
        loop = asyncio.get_running_loop()
        wait = self._interval / len(self._groups) * random.uniform(0.8, 1.0)
        self._due = max(self._due + wait, loop.time())
        self._timer = loop.call_at(self._due, self._turn)

    def _turn(self) -> None:
        """Check the next group."""
        self._timer = None
        if not self._rights:
            return
        group = self._groups[self._next]
        self._next = (self._next + 1) % len(self._groups)
        # A check that is still running is not started once more: on a busy machine they would
        # pile up.
        due = [right for right in group if not right.checking]
        if due:
            self._streams.run(self._check_each(due), "checking the rights of streams")
        self._arm()

    async def _check_each(self, rights: Iterable[Right]) -> None:
        waiting = list(rights)
        for right in waiting:
            right.checking += 1

        async def work() -> None:
            while waiting:
                await self._check(waiting.pop())

        try:
            await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, len(waiting)))))
        finally:
            for right in waiting:
                right.checking -= 1

    async def _check(self, right: Right) -> None:
        try:
            if not right.streams:
                return
            verdict = await self._verdict(right)
        finally:
            right.checking -= 1
        if verdict is None:
            return
        for stream in tuple(right.streams):
            if verdict == CHANGED:
                # The client resumes at once, with what it may see now.
                stream.dismiss(random.randint(50, 250))
            else:
                self._streams.counters.denied += 1
                stream.fail(verdict)

    async def _verdict(self, right: Right) -> Verdict:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                verdict = await right.check()
        except Exception as error:
            return self._unanswered(right, error)
        right.unanswered_since = None
        return verdict

    def _unanswered(self, right: Right, error: Exception) -> Verdict:
        # A check that cannot run is no refusal, so streams outlive an outage; but not for ever.
        logger.warning("the right of a stream could not be checked: %r", error)
        now = asyncio.get_running_loop().time()
        if right.unanswered_since is None:
            right.unanswered_since = now
        return CHANGED if now - right.unanswered_since > _PATIENCE else None

    def forget(self, right: Right, stream: Holder) -> None:
        """Forget a stream that has ended, and its right with the last stream."""
        right.streams = without(right.streams, stream)
        if not right.streams and self._rights.get(right.name) is right:
            del self._rights[right.name]
            self._groups[right.group].discard(right)
            for subject in right.subjects:
                holders = without(self._by_subject[subject], right)
                self._by_subject[subject] = holders
                if not holders:
                    del self._by_subject[subject]


def verdict_of(status: int) -> Verdict:
    """What the status of a re-check means for a stream that is open already."""
    if status in (401, 403):
        return status
    if status == 404:
        # What one may no longer know of.
        return 403
    if status >= 500 or status == 429:
        return None
    return CHANGED


# Headers in which requests of one caller differ without meaning another right.
_INDIFFERENT = frozenset(
    {
        b"last-event-id", b"accept", b"accept-encoding", b"accept-language", b"cache-control",
        b"connection", b"pragma", b"user-agent", b"referer", b"sec-fetch-dest", b"sec-fetch-mode",
        b"sec-fetch-site", b"sec-fetch-user", b"sec-ch-ua", b"sec-ch-ua-mobile",
        b"sec-ch-ua-platform", b"traceparent", b"tracestate", b"x-request-id", b"priority", b"dnt",
        b"if-none-match",
    }
)  # fmt: skip

# What each request has for itself, and is kept for each.
_OWN = ("path", "raw_path", "query_string", "headers", "client", "path_params", "state")
# What belongs to the connection, and is not kept.
_CONNECTION = frozenset({"extensions"})

RECHECK = "headwater.recheck"


class RememberedRequest:
    """A request whose route can be run again to check its right.

    It keeps the scope as the route was given it, without the connection and the body. Middleware
    does not run again: what it wrote into the scope then is what a re-check sees. Values that all
    requests of a route have in common are kept once.

    Arguments:
        scope: as it is before any guard or dependency runs.
        common: kept by the route for all its requests; filled by the first.

    Attributes:
        name: equal for requests whose rights are the same question.
    """

    __slots__ = ("_common", "_own", "_rare", "_stacks", "name")

    def __init__(self, scope: Mapping[str, Any], common: dict[str, Any]) -> None:
        # Frameworks may keep what closes their dependencies in the scope; each run has its own.
        self._stacks = tuple(key for key in scope if isinstance(scope[key], AsyncExitStack))
        shared = {
            key: value
            for key, value in scope.items()
            if key not in _OWN
            and key not in _CONNECTION
            and key not in self._stacks
            and not key.startswith("headwater.")
        }
        if not common:
            common.update(shared)
        self._common = common
        rare = {
            key: value
            for key, value in shared.items()
            if key not in common or not (common[key] is value or common[key] == value)
        }
        if common.keys() > shared.keys():
            self._common, rare = {}, shared
        self._rare = rare or None
        own = (scope.get(key) for key in _OWN)
        self._own = tuple(copy.copy(each) if isinstance(each, dict) else each for each in own)
        headers = tuple(sorted([pair for pair in scope["headers"] if pair[0] not in _INDIFFERENT]))
        client = (scope.get("client") or ("",))[0]
        self.name = (scope["path"], scope.get("query_string", b""), headers, client)

    async def run(
        self, app: Callable[[dict[str, Any], Any, Any], Awaitable[None]]
    ) -> tuple[int | None, dict[str, Any]]:
        """Run ``app`` on a copy of the request. Returns the status that it sent, and the scope."""
        own = {key: value for key, value in zip(_OWN, self._own, strict=True) if value is not None}
        scope = {
            key: copy.copy(value) if isinstance(value, dict) else value
            for key, value in {**self._common, **(self._rare or {}), **own}.items()
        }
        scope[RECHECK] = True
        status: int | None = None

        async def send(message: Mapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]

        async with AsyncExitStack() as stack:
            for key in self._stacks:
                scope[key] = await stack.enter_async_context(AsyncExitStack())
            await app(scope, _no_body, send)
        return status, scope


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}
