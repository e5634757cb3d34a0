"""What the routers of one event loop share while it runs: the hub and the rights of its streams.

There is one hub for an event loop, however many routers and applications run in it, so two feature
modules that follow one table share its reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, Literal

from headwater.delivery._hub import Hub
from headwater.delivery._open_streams import Counters
from headwater.errors import DeclarationError, UsageError
from headwater.eventlog import EventLog
from headwater.feeds._checks import check_kind, check_seconds
from headwater.feeds._source import Source
from headwater.web._identity import check_subject
from headwater.web._recheck_log import FollowedRechecks, RecheckLog, SubjectOf
from headwater.web._rights import Rights
from headwater.web._stream_info import StreamInfo, TailInfo, stream_infos, tail_infos
from headwater.web._stream_limits import StreamLimits, StreamPlaces
from headwater.web._whole_responses import StreamRefusedError

logger = logging.getLogger("headwater.web")

# The value of a setting that a router leaves to the other routers of its event loop.
Shared = Literal["shared"]
SHARED: Shared = "shared"

_DEFAULTS: dict[str, Any] = {
    "heartbeat": 30.0,
    "write_timeout": 30.0,
    "recheck": 25.0,
    "io_uring": True,
    "limits": StreamLimits(),
}
# What the settings are that are no seconds.
_KINDS: dict[str, tuple[Any, str]] = {
    "limits": (StreamLimits, "StreamLimits(...)"),
    "io_uring": (bool, "True or False"),
    "log": (EventLog | None, "an event log, such as open_log('redis://…')"),
}


def declared_at(what: str) -> str:
    """The place in the user's code that makes a router, for errors that name two of them."""
    frame = traceback.extract_stack(limit=3)[0]
    return f"{what} ({frame.filename}, line {frame.lineno})"


class Settings:
    """The settings that one router names for the hub that it shares.

    Arguments:
        where: the router, as error messages name it: ``LiveRouter() (app.py, line 7)``.
        named: the settings that the router names; those that are ``"shared"`` are left to others.

    Raises DeclarationError for a value that cannot work.
    """

    def __init__(self, where: str, **named: Any) -> None:
        self.where = where
        self.named = {name: value for name, value in named.items() if value != SHARED}
        for name, value in self.named.items():
            said = f"{where}: {name}={value!r}"
            if name in _KINDS:
                check_kind(said, value, *_KINDS[name])
            elif name != "heartbeat":
                check_seconds(said, value)
            elif value is not None:
                check_seconds(said, value, ", or None for no heartbeat")
        if self.named.get("recheck", 1.0) > 30:
            raise DeclarationError(
                f"{where}: recheck={self.named['recheck']!r}: at most 30 seconds; a right that was "
                "lost must end its streams in that time"
            )
        self._live: Live | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def live(self) -> Live:
        """What the routers of the running event loop share.

        Raises DeclarationError when another router of this loop names another value, and UsageError
        outside of an event loop.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise UsageError(
                f"{self.where} is used outside of its event loop: use it in an `async def` function"
            ) from None
        live = self._live
        if live is None or self._loop is not loop or live.closed:
            live = _running.get(loop)
            if live is None:
                live = _running[loop] = Live()
                live.drain_on_sigterm()
            live.agree(self)
            self._live, self._loop = live, loop
        return live

    @property
    def last(self) -> Live | None:
        """What was shared when this router was used last."""
        return self._live

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Keep the hub until the application ends. Raises DeclarationError for a second inclusion.

        The last application of the event loop to end closes the hub.
        """
        live = self.live()
        # An application may run several times at once, as in tests: each time in a task of its own.
        user = (id(self), id(app), id(asyncio.current_task()))
        if user in live.users:
            raise DeclarationError(
                f"{self.where} is included twice in one application: include it once, and declare "
                "a second LiveRouter for feeds that are to stand at another path too"
            )
        live.users.add(user)
        if live.setting("log") is not None:
            _ = live.rights
        try:
            yield
        finally:
            live.users.discard(user)
            if not live.users:
                await live.close()


class Live:
    """The hub and the rights of one event loop.

    Attributes:
        users: the routers and applications whose lifespan is running.
        closed: it has ended; the next request begins a new one.
    """

    def __init__(self) -> None:
        self.users: set[tuple[int, int, int]] = set()
        self.closed = False
        self._named: dict[str, tuple[Any, str]] = {}
        self._hub: Hub | None = None
        self._rights: Rights | None = None
        self._recheck_log: RecheckLog | None = None
        self._undo_signals: Callable[[], None] = lambda: None

    def agree(self, settings: Settings) -> None:
        """Take the settings that a router names. Raises DeclarationError where two differ."""
        for name, value in settings.named.items():
            known, where = self._named.get(name, (value, settings.where))
            if name not in self._named and self._hub is not None and value != _DEFAULTS.get(name):
                known, where = _DEFAULTS.get(name), "the hub that is running already"
            if known != value:
                raise DeclarationError(
                    f"{where} has {name}={known!r}, {settings.where} has {name}={value!r}: the "
                    "routers of one event loop share one hub; name one value, at one of them"
                )
            self._named[name] = (value, where)

    def setting(self, name: str) -> Any:
        """The value that the routers named, else the default."""
        return self._named[name][0] if name in self._named else _DEFAULTS.get(name)

    @property
    def hub(self) -> Hub:
        """The fan-out; made when it is first used."""
        if self._hub is None:
            limits: StreamLimits = self.setting("limits")
            self._hub = Hub(
                write_timeout=self.setting("write_timeout"),
                io_uring=self.setting("io_uring"),
                page_bytes=limits.page_bytes,
                unread_bytes=limits.unread_bytes,
            )
        return self._hub

    @property
    def rights(self) -> Rights:
        """The rights of the open streams."""
        if self._rights is None:
            self._rights = Rights(self.hub.streams, interval=self.setting("recheck"))
            if not self.users:
                logger.warning(
                    "no application with a LiveRouter runs its lifespan in this process, so "
                    "nothing closes its hub at the end: let the outermost application enter "
                    "`inner.router.lifespan_context(inner)` in its own lifespan; SIGTERM ends "
                    "the streams all the same"
                )
            log = self.setting("log")
            if log is not None:
                self._recheck_log = RecheckLog(log, self.hub, self._rights.recheck)
        return self._rights

    @cached_property
    def places(self) -> StreamPlaces:
        """The places of streams and polls."""
        return StreamPlaces(self.setting("limits"))

    async def recheck(self, subject: str | None) -> None:
        """Check the rights of a subject again, here and in the processes that share the log."""
        await self.rights.recheck(subject)
        if self._recheck_log is not None:
            await self._recheck_log.announce(subject)

    @property
    def counters(self) -> Counters:
        """What delivery has counted; zeros before the first stream."""
        return Counters() if self._hub is None else self._hub.streams.counters

    @property
    def heartbeat(self) -> float | None:
        """Seconds of silence after which a stream is sent a comment."""
        value: float | None = self.setting("heartbeat")
        return value

    @property
    def draining(self) -> bool:
        """Whether the process ends, so that new streams are to be refused."""
        return self.hub.streams.draining

    def refuse_while_draining(self) -> None:
        """Raise StreamRefusedError if the process ends."""
        retry = self.hub.streams.refusal()
        if retry is not None:
            self.counters.refused += 1
            raise StreamRefusedError("the server is shutting down", retry)

    async def drain(self, spread: float = 5.0) -> None:
        """Refuse new streams and end the open ones over ``spread`` seconds at most."""
        await self.hub.streams.drain(spread=spread)

    async def close(self) -> None:
        """End everything."""
        if self.closed:
            return
        self.closed = True
        self._undo_signals()
        loop = asyncio.get_running_loop()
        if _running.get(loop) is self:
            del _running[loop]
        if self._recheck_log is not None:
            self._recheck_log.close()
        if self._rights is not None:
            self._rights.close()
        if self._hub is not None:
            await self.drain(1.0)
            await self._hub.close()

    def drain_on_sigterm(self) -> None:
        """Begin to drain when the process is asked to end.

        ASGI servers wait for open responses first and send the application the shut-down last, so
        a stream would keep the process alive. The server's own handler is called as before.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        before: dict[int, Any] = {}

        async def end() -> None:
            await self.drain()
            if not self.users:
                await self.close()

        def begin() -> None:
            self._draining = loop.create_task(end())

        def handler(number: int, frame: Any) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(begin)
            previous = before[number]
            if callable(previous):
                previous(number, frame)
            elif previous == signal.SIG_DFL:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT):
            current = signal.getsignal(number)
            # Without a server's handler the process is to end the way it always does.
            if callable(current) and current is not signal.default_int_handler:
                before[number] = current
                signal.signal(number, handler)

        def undo() -> None:
            for number, previous in before.items():
                if signal.getsignal(number) is handler:
                    signal.signal(number, previous)

        self._undo_signals = undo


class HubFace:
    """The members of a router that concern the shared hub."""

    _settings: Settings

    @property
    def hub(self) -> Hub:
        """The fan-out of the running event loop."""
        return self._settings.live().hub

    @property
    def stats(self) -> Counters:
        """What was counted since the start: open streams, frames, resets and so on."""
        last = self._settings.last
        return Counters() if last is None else last.counters

    def streams(self) -> list[StreamInfo]:
        """The open streams of this process, the oldest first."""
        return stream_infos(self._settings.live().hub)

    def tails(self) -> list[TailInfo]:
        """What this process reads for its streams: tables, topics and functions, by name."""
        return tail_infos(self._settings.live().hub)

    def close_stream(self, stream_id: str) -> bool:
        """End one open stream of this process in an orderly way; False if there is none.

        Its client may come back, after some seconds at random.
        """
        return self._settings.live().hub.streams.dismiss(stream_id)

    async def recheck(self, subject: str | None = None) -> None:
        """Check the rights of all streams of a subject again at once; of all streams for None.

        A stream that lost its right ends with an ``error`` event. ``subject`` is what a guard
        passed to ``identify``. The streams are those of all routers of this event loop, and of all
        processes where ``log=`` names an event log.
        """
        if subject is not None:
            check_subject("recheck", subject)
        await self._settings.live().recheck(subject)

    def follow_rechecks(self, source: Source, subject_of: SubjectOf) -> Callable[[], None]:
        """Check rights again in this process whenever a change comes in a source.

        For changes of rights that a transaction announces itself, by a row of a tracked table or
        by an event that it appends. Each process follows it. To be called in the event loop.
        Returns a function that ends it.

        Arguments:
            source: such as ``Table(engine, AccessChange).where()``.
            subject_of: the subject that a change's values name, as for ``recheck``.
        """
        live = self._settings.live()

        async def recheck(*subjects: str | None) -> None:
            # The rights are made by the first request: what runs the application is known by then.
            await live.rights.recheck(*subjects)

        return FollowedRechecks(source, live.hub, recheck, subject_of).close

    async def drain(self, *, spread: float = 5.0) -> None:
        """Refuse new streams and end the open ones, over at most ``spread`` seconds."""
        await self._settings.live().drain(spread)


_running: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Live] = weakref.WeakKeyDictionary()
