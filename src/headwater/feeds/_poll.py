"""``Poll``: a source on an async function, such as an aggregate query or another service's API.

The function is called once per interval and distinct parameters, however many streams follow. It is
never called while there is none, and never twice at once. The feed is the latest state. A position
is a hash of it, so an unchanged state sends nothing, also after a reconnect or a restart. If items
have a key, a changed state is sent item by item.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import logging
import random
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec

from headwater.errors import (
    DeclarationError,
    EncodingError,
    PositionError,
    SourceUnavailableError,
    UsageError,
)
from headwater.feeds._checks import check_seconds
from headwater.feeds._poll_state import PollPlace, PollState, difference, key_of
from headwater.feeds._shared_calls import SharedCalls, is_cancelled
from headwater.feeds._source import Change, Origin, Page, Place, Sink, Source
from headwater.protocol import to_json

logger = logging.getLogger("headwater.feeds")

# States that are kept, so that a client which returns soon is sent the difference.
_KEPT_STATES = 8
# Sets of parameters whose last state is kept although no stream follows them.
_KEPT_ORIGINS = 256
_MAX_BACKOFF = 60.0
# Seconds between two calls that changes of ``wake=`` lead to.
_GAP = 0.1

P = ParamSpec("P")

# A selection, or what has one: a table or a live query.
Wake = Any


@dataclass(slots=True)
class PollFailures:
    """The failures of a function since the start.

    Attributes:
        total: calls that failed or timed out.
        in_a_row: those since the last success.
        last: the last error's text, or None.
    """

    total: int = 0
    in_a_row: int = 0
    last: str | None = None


class Poll(Generic[P]):
    """A function that returns the latest state.

    Arguments:
        fetch: an async function of hashable keyword parameters. It returns a list of items
            (mappings, or objects that the feed's model takes), or one item.
        interval: seconds between two calls, above 0.
        timeout: seconds that a call may take; the interval, or 30, whichever is less, by default.
        key: the field that identifies an item. Without one a changed state is sent whole, as a new
            ``snapshot``.
        name: for logs and errors; the function's own by default.
        wake: tables, live queries, or selections of them, also of several databases: the function
            is called again when these change while streams follow, and so soon that ``interval``
            may be long.
    """

    def __init__(
        self,
        fetch: Callable[P, Awaitable[Any]],
        *,
        interval: float = 10.0,
        timeout: float | None = None,
        key: str | None = None,
        name: str | None = None,
        wake: Sequence[Wake] = (),
    ) -> None:
        if not inspect.iscoroutinefunction(fetch) and not inspect.iscoroutinefunction(
            type(fetch).__call__
        ):
            raise DeclarationError(f"Poll({fetch!r}): write an async function")
        check_seconds(f"Poll(interval={interval!r})", interval)
        self.fetch = fetch
        self.interval = interval
        self.timeout = min(interval, 30.0) if timeout is None else timeout
        check_seconds(f"Poll(timeout={timeout!r})", self.timeout)
        self.key = key
        self.name = name or getattr(fetch, "__qualname__", repr(fetch))
        self.wakes = tuple(_selected(str(self.name), each) for each in wake)
        self.failures = PollFailures()
        self.calls = SharedCalls()
        self._origins: weakref.WeakValueDictionary[Hashable, PollOrigin] = (
            weakref.WeakValueDictionary()
        )
        self._recent: OrderedDict[Hashable, PollOrigin] = OrderedDict()

    def __call__(self, *positional: P.args, **parameters: P.kwargs) -> PollSource:
        """The source for these parameters, given by name; they are passed to the function.

        Raises UsageError for a parameter without a name, and for one that is not hashable.
        """
        if positional:
            raise UsageError(f"poll {self.name}: {positional[0]!r} is passed without its name")
        for key, value in parameters.items():
            if not isinstance(value, Hashable):
                raise UsageError(f"poll {self.name}: {key}={value!r} must be hashable")
        name = tuple(sorted(parameters.items()))
        origin = self._origins.get(name)
        if origin is None:
            origin = PollOrigin(self, parameters)
            self._origins[name] = origin
        # An origin that no stream follows is kept for a while, so that REST polls share its state.
        self._recent[name] = origin
        self._recent.move_to_end(name)
        if len(self._recent) > _KEPT_ORIGINS:
            self._recent.popitem(last=False)
        return PollSource(origin)

    def refresh(self, **parameters: Any) -> None:
        """Call the function again at once, for these parameters or for all that are followed.

        What is being called already is called once more after that. Call it in the event loop of
        the streams.
        """
        for origin in tuple(self._origins.values()):
            if not parameters or origin.parameters == parameters:
                origin.woken()


class PollOrigin(Origin):
    """One function with one set of parameters."""

    # The function is not called once the last stream has left.
    linger = 0.0

    def __init__(self, poll: Poll[Any], parameters: Mapping[str, Any]) -> None:
        self.poll = poll
        self.parameters = dict(parameters)
        shown = ", ".join(f"{name}={value!r}" for name, value in sorted(self.parameters.items()))
        self.name = f"poll {poll.name}({shown})"
        # Positions are hashes, valid in every process and for ever, but of this state alone.
        self.bound = "poll" + hashlib.blake2s(self.name.encode(), digest_size=6).hexdigest()
        self._states: list[PollState] = []
        self._task: asyncio.Task[None] | None = None
        self._sink: Sink | None = None
        # Something changed since the last call began.
        self._stale = False
        self._woken = asyncio.Event()
        self.wakes = poll.wakes

    def woken(self) -> None:
        self._stale = True
        self._woken.set()

    async def epoch(self) -> str:
        return self.bound

    async def attach(self, sink: Sink, /) -> PollPlace:
        state = await self.state()
        self._sink = sink
        self._task = asyncio.get_running_loop().create_task(self._run(state.at_time))
        return state.place

    async def detach(self) -> None:
        task, self._task, self._sink = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def state(self) -> PollState:
        """The latest state: from memory while it is fresh, otherwise from a call that all share."""
        now = asyncio.get_running_loop().time()
        # A task of an event loop that has ended, as in tests, calls no more.
        calls = self._task is not None and not self._task.done()
        fresh = calls or (self._states and now - self._states[-1].at_time < self.poll.interval)
        if self._states and fresh and not self._stale:
            return self._states[-1]
        state = await self.poll.calls.join(self, self._fetch)
        # A call that had begun before ``refresh`` is not the last word.
        return await self.poll.calls.join(self, self._fetch) if self._stale else state

    def known(self, digest: str) -> PollState | None:
        """The last state with this hash, if it is still kept."""
        same = (each for each in reversed(self._states) if each.place.digest == digest)
        return next(same, None)

    async def _fetch(self) -> PollState:
        failures = self.poll.failures
        self._stale = False
        try:
            async with asyncio.timeout(self.poll.timeout):
                result = await self.poll.fetch(**self.parameters)
            state = self._remember(result)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            failures.total += 1
            failures.in_a_row += 1
            timed_out = isinstance(error, TimeoutError)
            failures.last = (
                f"it took longer than {self.poll.timeout:g} s" if timed_out else repr(error)
            )
            log = logger.warning if timed_out else logger.exception
            log("%s failed: %s", self.name, failures.last)
            if self._sink is not None:
                self._sink.failed()
            raise SourceUnavailableError(self.name, failures.last) from error
        failures.in_a_row = 0
        return state

    def _remember(self, result: Any) -> PollState:
        items = list(result) if isinstance(result, (list, tuple)) else [result]
        texts = [to_json(item).encode() for item in items]
        digest = hashlib.blake2s(b"\n".join(texts), digest_size=12).hexdigest()
        now = asyncio.get_running_loop().time()
        number = 0
        if self._states:
            last = self._states[-1]
            number = last.place.number + 1
            if last.place.digest == digest:
                self._states[-1] = replace(last, at_time=now)
                return self._states[-1]
        digests: dict[Hashable, bytes] = {}
        if self.poll.key is not None:
            for item, text in zip(items, texts, strict=True):
                name = key_of(item, self.poll.key)
                if name in digests:
                    raise EncodingError(f"{self.name}: two items have {self.poll.key}={name!r}")
                digests[name] = hashlib.blake2s(text, digest_size=12).digest()
        state = PollState(PollPlace(digest, number), items, digests, now)
        self._states.append(state)
        del self._states[:-_KEPT_STATES]
        return state

    async def _run(self, asked_at: float) -> None:
        loop = asyncio.get_running_loop()
        due = asked_at + self.poll.interval
        began = asked_at
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._woken.wait()
            # Of what changes all the time, a call follows the last one after a moment.
            await asyncio.sleep(max(0.0, min(due, began + _GAP) - loop.time()))
            self._woken.clear()
            began = loop.time()
            before = self._states[-1]
            try:
                state = await self.poll.calls.join(self, self._fetch)
            except SourceUnavailableError:
                # Each retry waits longer, at random so that processes do not retry together.
                wait = self.poll.interval * 2 ** min(self.poll.failures.in_a_row, 6)
                due = loop.time() + min(wait, max(_MAX_BACKOFF, self.poll.interval)) * (
                    random.uniform(0.8, 1.0)
                )
                continue
            due = max(loop.time(), due + self.poll.interval)
            sink = self._sink
            if state.place == before.place or sink is None:
                continue
            if self.poll.key is None:
                sink.replace(state.place)
            else:
                sink.deliver(difference(before, state, self.poll.key), state.place)


class PollSource(Source):
    """The latest state of a polled function."""

    def __init__(self, origin: PollOrigin) -> None:
        self.origin: PollOrigin = origin
        self.keyed = origin.poll.key is not None
        # Without a key a changed state is a new snapshot.
        self.replaced = not self.keyed

    def nothing(self) -> Place | None:
        return PollPlace("", -1, 0) if self.keyed else None

    async def exceeds(self, count: int) -> bool:
        return len((await self.origin.state()).items) > count

    async def page(
        self, limit: int, *, after: Place | None = None, before: Place | None = None
    ) -> Page:
        origin = self.origin
        state = await origin.state()
        if after is None:
            end = len(state.items)
            if before is not None:
                assert isinstance(before, PollPlace)
                state = self._known(before)
                end = len(state.items) if before.sent is None else before.sent
            return self._items(state, max(0, end - limit), end)
        assert isinstance(after, PollPlace)
        if after.digest in ("", state.place.digest):
            begin = len(state.items) if after.sent is None else after.sent
            end = min(begin + limit, len(state.items))
            page = self._items(state, begin, end)
            return replace(page, has_more=end < len(state.items))
        key = origin.poll.key
        if key is None:
            raise PositionError(str(after), "expired", "the state has changed since")
        old = self._known(after)
        if after.sent is not None:
            old = old.first(after.sent)
        changes = difference(old, state, key)
        return Page(changes, after, state.place, has_more=False, epoch=origin.bound)

    def _items(self, state: PollState, begin: int, end: int) -> Page:
        """A page of a state; each item may be resumed from. There is more before it, perhaps."""
        origin, key = self.origin, self.origin.poll.key
        changes = [
            Change(
                state.at(at + 1),
                {},
                state.items[at],
                key=None if key is None else {key: key_of(state.items[at], key)},
            )
            for at in range(begin, end)
        ]
        start = PollPlace(state.place.digest, state.place.number, begin)
        return Page(changes, start, state.at(end), begin > 0, origin.bound)

    def _known(self, place: PollPlace) -> PollState:
        found = self.origin.known(place.digest)
        if found is None:
            raise PositionError(str(place), "expired", "the state has changed since")
        return found

    async def locate(self, epoch: str, place: str) -> PollPlace:
        found = PollPlace.parse(place)
        if epoch != self.origin.bound or found is None:
            raise PositionError(place, "unknown")
        known = self.origin.known(found.digest) or await self.origin.state()
        if known.place.digest != found.digest:
            raise PositionError(place, "expired", "the state has changed since")
        if found.sent is not None and found.sent >= len(known.items):
            return known.place
        return PollPlace(found.digest, known.place.number, found.sent)


def _selected(poll: str, each: Wake) -> Source:
    where = getattr(each, "where", None)
    found = each if isinstance(each, Source) else where() if callable(where) else None
    if not isinstance(found, Source):
        raise DeclarationError(
            f"poll {poll}: wake={each!r}: write a table, a live query or a selection of one"
        )
    return found
