"""Following topics of an engine that pushes: one task for all of them, and no request per record.

A push that follows on what a topic's followers have is handed over as it comes. Anything else
(one was lost, the connection was, the storage is another one) is found by comparing offsets, and
what is missing is read from the log.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from headwater.errors import SourceUnavailableError
from headwater.eventlog.interface import Follower
from headwater.eventlog.push_topics import Followed, Following
from headwater.eventlog.pushes import Engine, Push, Pushes, States
from headwater.eventlog.record import Bounds

__all__ = ["PushReader"]

_log = logging.getLogger(__name__)

# Records per read of what was missed; each may have a megabyte.
ROWS = 100
# Topics that are read at the same time after an outage.
ABREAST = 20
# Back-off while the engine is away, in seconds: a restart takes less than the first few.
SHORTEST, LONGEST = 0.1, 5.0
# Seconds between two looks whether the log is still the same one. What an idle process costs.
CHECK = 1.0
# Seconds between reads of a replica that has not yet got what was pushed.
BEHIND = 0.02


class PushReader:
    """The one reader of a log in this process. Its task lives while anything is followed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._topics: dict[str, Followed] = {}
        self._joining: list[tuple[str, Follower, asyncio.Future[Bounds]]] = []
        self._leaving: set[str] = set()
        self._behind: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._fault: Exception | None = None
        self._doubt = False
        self._epoch: str | None = None
        self._head = 0
        self._delay = SHORTEST

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        joined: asyncio.Future[Bounds] = asyncio.get_running_loop().create_future()
        self._joining.append((topic, follower, joined))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"{self._engine.name}: reader")
        self._wake.set()
        try:
            return await joined
        except asyncio.CancelledError:
            self.unfollow(topic, follower)
            raise

    def unfollow(self, topic: str, follower: Follower) -> None:
        for name, one, joined in self._joining:
            if name == topic and one is follower:
                joined.cancel()
        followed = self._topics.get(topic)
        if followed is not None and followed.remove(follower):
            del self._topics[topic]
            self._leaving.add(topic)
            self._wake.set()

    async def close(self) -> None:
        """Stop following; nothing is handed over once this returns."""
        self._topics.clear()
        for _, _, joined in self._joining:
            joined.cancel()
        self._joining.clear()
        self._wake.set()
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def take(self, push: Push) -> None:
        """As Receiver."""
        followed = self._topics.get(push.topic)
        if followed is None:
            return
        if push.epoch is not None and self._epoch is not None and push.epoch != self._epoch:
            self._doubt = True
            self._wake.set()
            return
        self._head = max(self._head, push.head)
        if not followed.take(push):
            self._behind.add(push.topic)
            self._wake.set()

    def lost(self, error: Exception) -> None:
        """As Receiver."""
        self._fault = error
        self._wake.set()

    async def _run(self) -> None:
        try:
            while self._topics or self._joining:
                try:
                    await self._live()
                except Exception as error:
                    self._away(error)
                    await self._pause(self._delay * random.uniform(0.5, 1.0))
                    self._delay = min(self._delay * 2, LONGEST)
        finally:
            self._task = None
            for _, _, joined in self._joining:
                joined.cancel()  # nothing but the end of the loop leaves any
            self._joining.clear()

    async def _live(self) -> None:
        """One life of the connection; ends by an error, or when nothing is followed."""
        self._fault = None
        pushes = await self._engine.listen(self)
        try:
            self._leaving.clear()
            for followed in self._topics.values():
                followed.sure = False
            await pushes.subscribe(list(self._topics))
            await self._check(thorough=True)
            self._delay = SHORTEST
            due = asyncio.get_running_loop().time() + CHECK
            while self._topics or self._joining:
                self._wake.clear()
                await self._leave(pushes)
                await self._join(pushes)
                if asyncio.get_running_loop().time() >= due:
                    await pushes.ping()
                    self._doubt = True
                    due = asyncio.get_running_loop().time() + CHECK
                if self._doubt:
                    await self._check()
                await self._catch_up()
                await self._pause(due - asyncio.get_running_loop().time())
                if self._fault is not None:
                    raise self._fault
        finally:
            await pushes.close()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _away(self, error: Exception) -> None:
        """Tell who waits to join; those who follow already just wait longer."""
        if not isinstance(error, SourceUnavailableError):
            _log.error("%s: reading failed", self._engine.name, exc_info=error)
        elif self._delay == SHORTEST and self._topics:
            _log.warning("%s; followers wait", error)
        if error is not self._fault:
            # One that broke just now may be there again: then who asked only waits a moment.
            for _, _, joined in self._joining:
                if not joined.done():
                    joined.set_exception(error)
            self._joining.clear()
        self._wake.clear()
        for name in [name for name, one in self._topics.items() if not one.followings]:
            del self._topics[name]

    async def _leave(self, pushes: Pushes) -> None:
        asked = {topic for topic, _, _ in self._joining}
        gone = [one for one in self._leaving if one not in self._topics and one not in asked]
        self._leaving.clear()
        if gone:
            await pushes.unsubscribe(gone)

    async def _join(self, pushes: Pushes) -> None:
        """Let in who asked to follow."""
        if not self._joining:
            return
        asking = list(self._joining)
        names = list(dict.fromkeys(topic for topic, _, _ in asking))
        fresh = [name for name in names if name not in self._topics]
        await pushes.subscribe(fresh)
        # From here on what is pushed is kept until the bounds are known.
        entering: list[tuple[Followed, Following, asyncio.Future[Bounds]]] = []
        for topic, follower, joined in asking:
            if not joined.done():
                followed = self._topics.setdefault(topic, Followed(topic))
                entering.append((followed, followed.add(follower), joined))
        try:
            states = await self._states(names)
        except BaseException:
            for followed, following, _ in entering:
                followed.remove(following.follower)
            raise
        del self._joining[: len(asking)]
        entering = [entry for entry in entering if not entry[2].done()]
        for followed, following, joined in entering:
            bounds = states.topics[followed.name]
            following.begin(bounds.latest)
            joined.set_result(bounds)
        # Who asked is told the bounds before the first record.
        await asyncio.sleep(0)
        for followed, following, _ in entering:
            followed.admit(following)
        for name in fresh:
            begun = self._topics.get(name)
            if begun is None:
                self._leaving.add(name)
            elif not begun.begin(states.topics[name].latest):
                self._behind.add(name)

    async def _states(self, names: Sequence[str]) -> States:
        """Where topics are that are to be followed."""
        states = await self._engine.states(names)
        if self._epoch is not None and states.epoch != self._epoch:
            await self._begin_anew()
            states = await self._engine.states(names)
        self._epoch = states.epoch
        self._head = max(self._head, states.head)
        return states

    async def _check(self, *, thorough: bool = False) -> None:
        """Is it still the same log? After an outage also: what was appended meanwhile?"""
        self._doubt = False
        known = self._head
        states = await self._engine.states(list(self._topics) if thorough else ())
        if self._epoch is None:
            return
        if states.epoch != self._epoch:
            await self._begin_anew()
            return
        if states.head < known:
            # The same log, and younger: restored from a copy, or its last writes were lost.
            await self._engine.begin_anew(self._epoch)
            await self._begin_anew()
            return
        self._head = max(self._head, states.head)
        for name, bounds in states.topics.items():
            followed = self._topics.get(name)
            if followed is not None and followed.is_at(bounds.latest):
                followed.sure = True
            else:
                self._behind.add(name)

    async def _begin_anew(self) -> None:
        """The storage is another one, or an older copy of itself."""
        states = await self._engine.states(list(self._topics))
        self._epoch, self._head = states.epoch, states.head
        self._behind.clear()
        for topic, bounds in states.topics.items():
            followed = self._topics.get(topic)
            if followed is not None:
                followed.reset("unknown", bounds)

    async def _catch_up(self) -> None:
        """Read what was not pushed."""
        behind, self._behind = list(self._behind), set()
        for start in range(0, len(behind), ABREAST):
            names = behind[start : start + ABREAST]
            done = await asyncio.gather(*map(self._read, names), return_exceptions=True)
            for error in done:
                if error is not None:
                    self._behind.update(behind[start:])
                    raise error

    async def _read(self, name: str) -> None:
        followed = self._topics.get(name)
        patient_until = asyncio.get_running_loop().time() + CHECK
        while followed is not None and followed.last is not None:
            after = followed.last
            run = await self._engine.read(name, after, ROWS)
            if self._topics.get(name) is not followed:
                return
            if run.bounds.epoch != self._epoch:
                self._doubt = True
                self._wake.set()
                return
            if run.bounds.earliest > followed.last:
                followed.reset("expired", run.bounds)
            followed.deliver(run.records)
            if followed.is_at(run.bounds.latest):
                followed.sure = True
                return
            if followed.last == after:
                if self._fault is not None or asyncio.get_running_loop().time() > patient_until:
                    # What was pushed is nowhere to be read: it was lost, or the replica is.
                    self._behind.add(name)
                    self._doubt = True
                    return
                await asyncio.sleep(BEHIND)
