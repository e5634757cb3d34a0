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
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec

from headwater.errors import (
    DeclarationError,
    EncodingError,
    PositionError,
    SourceUnavailableError,
    UsageError,
)
from headwater.feeds.shared_calls import SharedCalls
from headwater.feeds.source import Change, OrderedPlace, Origin, Page, Place, Sink, Source
from headwater.protocol import to_json

__all__ = ["Poll", "PollFailures"]

logger = logging.getLogger("headwater.feeds")

# States that are kept, so that a client which returns soon is sent the difference.
_KEPT_STATES = 8
# Sets of parameters whose last state is kept although no stream follows them.
_KEPT_ORIGINS = 256
_MAX_BACKOFF = 60.0

P = ParamSpec("P")


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
    """

    def __init__(
        self,
        fetch: Callable[P, Awaitable[Any]],
        *,
        interval: float = 10.0,
        timeout: float | None = None,
        key: str | None = None,
        name: str | None = None,
    ) -> None:
        if not inspect.iscoroutinefunction(fetch) and not inspect.iscoroutinefunction(
            getattr(fetch, "__call__", None)  # noqa: B004 - the method itself is needed
        ):
            raise DeclarationError(f"Poll({fetch!r}): an async function is needed")
        if not interval > 0:
            raise DeclarationError(f"Poll(interval={interval!r}): seconds above 0 are needed")
        self.fetch = fetch
        self.interval = interval
        self.timeout = min(interval, 30.0) if timeout is None else timeout
        if not self.timeout > 0:
            raise DeclarationError(f"Poll(timeout={timeout!r}): seconds above 0 are needed")
        self.key = key
        self.name = name or getattr(fetch, "__qualname__", repr(fetch))
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


@dataclass(frozen=True, slots=True)
class PollPlace(OrderedPlace):
    """A state: the hash of its content, and its number in this process."""

    digest: str
    number: int

    def includes(self, other: PollPlace) -> bool:
        return self.number >= other.number

    def __str__(self) -> str:
        return self.digest


@dataclass(frozen=True, slots=True)
class _State:
    place: PollPlace
    items: Sequence[Any]
    digests: Mapping[Hashable, bytes] = field(default_factory=dict)
    at: float = 0.0


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
        self._states: list[_State] = []
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self._sink: Sink | None = None

    async def epoch(self) -> str:
        return self.bound

    async def attach(self, sink: Sink, /) -> PollPlace:
        state = await self.state()
        self._sink = sink
        self._task = asyncio.get_running_loop().create_task(self._run(state.at))
        return state.place

    async def detach(self) -> None:
        task, self._task, self._sink = self._task, None, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def state(self) -> _State:
        """The latest state: from memory while it is fresh, otherwise from a call that all share."""
        now = asyncio.get_running_loop().time()
        # A task of an event loop that has ended, as in tests, calls no more.
        calls = self._task is not None and not self._task.done()
        if self._states and (calls or now - self._states[-1].at < self.poll.interval):
            return self._states[-1]
        return await self.poll.calls.join(self, self._fetch)

    def known(self, digest: str) -> _State | None:
        """The last state with this hash, if it is still kept."""
        same = (each for each in reversed(self._states) if each.place.digest == digest)
        return next(same, None)

    async def _fetch(self) -> _State:
        failures = self.poll.failures
        try:
            async with asyncio.timeout(self.poll.timeout):
                result = await self.poll.fetch(**self.parameters)
            state = self._remember(result)
        except Exception as error:
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

    def _remember(self, result: Any) -> _State:
        items = list(result) if isinstance(result, (list, tuple)) else [result]
        texts = [to_json(item).encode() for item in items]
        digest = hashlib.blake2s(b"\n".join(texts), digest_size=12).hexdigest()
        now = asyncio.get_running_loop().time()
        last = self._states[-1] if self._states else None
        if last is not None and last.place.digest == digest:
            state = _State(last.place, last.items, last.digests, now)
            self._states[-1] = state
            return state
        digests: dict[Hashable, bytes] = {}
        if self.poll.key is not None:
            for item, text in zip(items, texts, strict=True):
                name = _key_of(item, self.poll.key)
                if name in digests:
                    raise EncodingError(f"{self.name}: two items have {self.poll.key}={name!r}")
                digests[name] = hashlib.blake2s(text, digest_size=12).digest()
        state = _State(PollPlace(digest, self._count), items, digests, now)
        self._count += 1
        self._states.append(state)
        del self._states[:-_KEPT_STATES]
        return state

    async def _run(self, asked_at: float) -> None:
        loop = asyncio.get_running_loop()
        due = asked_at + self.poll.interval
        while True:
            await asyncio.sleep(max(0.0, due - loop.time()))
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
                sink.reset("expired", state.place)
            else:
                sink.deliver(self.difference(before, state), state.place)

    def difference(self, old: _State, new: _State) -> list[Change]:
        """The changes from one state to another. Only the last one has a place to resume from."""
        key = self.poll.key
        assert key is not None
        changes = [
            Change(None, {}, removed=True, key={key: name})
            for name in old.digests
            if name not in new.digests
        ]
        for item, (name, digest) in zip(new.items, new.digests.items(), strict=True):
            if old.digests.get(name) != digest:
                changes.append(Change(None, {}, item, key={key: name}))
        if changes:
            changes[-1].place = new.place
        return changes


class PollSource(Source):
    """The latest state of a polled function."""

    def __init__(self, origin: PollOrigin) -> None:
        self.origin: PollOrigin = origin
        self.keyed = origin.poll.key is not None

    async def page(
        self, limit: int, *, after: Place | None = None, before: Place | None = None
    ) -> Page:
        origin = self.origin
        state = await origin.state()
        key = origin.poll.key
        changes: list[Change] = []
        if before is not None:
            return Page([], state.place, state.place, has_more=False, epoch=origin.bound)
        if after is None:
            changes = [
                Change(
                    state.place, {}, item, key=None if key is None else {key: _key_of(item, key)}
                )
                for item in state.items
            ]
            # There are no older pages: with a limit the client gets the last items alone.
            shown = changes[-limit:]
            return Page(shown, state.place, state.place, len(shown) < len(changes), origin.bound)
        assert isinstance(after, PollPlace)
        if after.digest != state.place.digest:
            old = origin.known(after.digest)
            if old is None or key is None:
                raise PositionError(str(after), "expired", "the state has changed since")
            changes = origin.difference(old, state)
        return Page(changes, after, state.place, has_more=False, epoch=origin.bound)

    async def locate(self, epoch: str, place: str) -> PollPlace:
        if epoch != self.origin.bound or len(place) != 24 or not place.isalnum():
            raise PositionError(place, "unknown")
        known = self.origin.known(place)
        if known is not None:
            return known.place
        state = await self.origin.state()
        if state.place.digest != place:
            raise PositionError(place, "expired", "the state has changed since")
        return state.place


def _key_of(item: Any, key: str) -> Hashable:
    try:
        found: Hashable = item[key] if isinstance(item, Mapping) else getattr(item, key)
    except (KeyError, AttributeError):
        raise EncodingError(
            f"an item has no {key!r}, which is the poll's key: {item!r:.200}"
        ) from None
    hash(found)
    return found
