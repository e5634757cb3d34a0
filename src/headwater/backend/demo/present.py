"""Activity in the running demo, through the same services as real use."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from headwater.backend.activity.schemas import ActivityReport
from headwater.backend.auth.principal import Principal
from headwater.backend.demo.cast import ADMIN, CLIENTS, Cast
from headwater.backend.demo.lines import incident, line
from headwater.backend.demo.notices import notice
from headwater.backend.demo.walk import Walk
from headwater.backend.notifications.schemas import NotificationCreate
from headwater.backend.state import Backend
from headwater.backend.times import utc_now
from headwater.errors import SourceUnavailableError

logger = logging.getLogger("headwater.demo")

_METRICS_EVERY = 2.0
# Seconds on average.
_NOTICE_EVERY = 10.0
_INCIDENT_EVERY = 40.0
_ACTIVITY_EVERY = 3.0


class Present:
    """Makes activity until it is cancelled."""

    def __init__(self, backend: Backend, cast: Cast, walks: Mapping[str, Walk]) -> None:
        self._backend = backend
        self._cast = cast
        self._walks = walks
        self._draw = random.Random()
        self._admin = Principal("user", cast.users[ADMIN[0]], "session", "", role="global_admin")
        # The active clients: user, team, satellite and client. Each viewer has a client in
        # each team, so that every page shows activity.
        places = sorted(cast.works_for)
        teams = sorted({team for place in places for team in cast.works_for[place]})
        pairs = [(user, team) for user in cast.viewers for team in teams]
        self._working = [self._client(user, team) for user, team in pairs + pairs]
        self._draw.shuffle(self._working)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            # A page that was just opened shows that it lives within a second.
            soon = partial(self._draw.uniform, 0.2, 0.9)
            for user_id in self._cast.viewers:
                group.create_task(self._again(partial(self._write, user_id), soon))
            group.create_task(self._again(self._measure, lambda: _METRICS_EVERY))
            group.create_task(self._again(self._notify, self._pause(_NOTICE_EVERY)))
            group.create_task(self._again(self._work, self._pause(_ACTIVITY_EVERY)))
            group.create_task(self._again(self._go_wrong, self._pause(_INCIDENT_EVERY)))

    async def _again(self, act: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> None:
        while True:
            await asyncio.sleep(pause())
            try:
                await act()
            except SourceUnavailableError as error:
                logger.warning("the demo waits: %s", error)

    def _pause(self, average: float) -> Callable[[], float]:
        """A random wait that is bounded, so that the page never looks dead."""
        return lambda: min(self._draw.expovariate(1 / average) + 0.05, average * 2.5)

    async def _write(self, user_id: str) -> None:
        count = self._draw.choice((1, 1, 1, 2, 3))
        await self._backend.logs.add(user_id, [line(self._draw) for _ in range(count)])

    async def _measure(self) -> None:
        now = utc_now()
        for satellite_id, walk in self._walks.items():
            await self._backend.satellites.report(satellite_id, [walk.step(now)])

    async def _notify(self) -> None:
        await self._backend.notifications.create(self._admin, notice(self._draw, self._cast))

    async def _go_wrong(self) -> None:
        """A burst of lines, a satellite under load, and a notification about it."""
        source, lines = incident(self._draw)
        name, satellite_id = self._draw.choice(sorted(self._cast.satellites.items()))
        self._walks[satellite_id].strain()
        team_id = self._draw.choice(self._cast.works_for[satellite_id])
        await self._backend.notifications.create(
            self._admin,
            NotificationCreate(
                team_id=team_id, level="error", title=f"{source} is in trouble on {name}"
            ),
        )
        for entry in lines:
            for user_id in self._cast.viewers:
                await self._backend.logs.add(user_id, [entry])
            await asyncio.sleep(self._draw.uniform(0.03, 0.25))

    async def _work(self) -> None:
        """Some clients do something; now and then one stops for good and another begins."""
        # The one that was quiet for longest, and any other.
        first, *others = self._working
        second = others.pop(self._draw.randrange(len(others)))
        if self._draw.random() < 0.08:
            first = self._client(first[0], first[1])
        self._working = [*others, second, first]
        for user_id, team_id, satellite_id, client in (first, second):
            calls = self._draw.randint(0, 6)
            report = ActivityReport(
                user_id=user_id,
                team_id=team_id,
                client_name=client,
                user_agent=CLIENTS[client],
                requests=calls + self._draw.randint(1, 9),
                tool_calls=calls,
            )
            await self._backend.activities.add(satellite_id, [report])

    def _client(self, user_id: str, team_id: str) -> tuple[str, str, str, str]:
        works_for = self._cast.works_for
        places = sorted(place for place, teams in works_for.items() if team_id in teams)
        return user_id, team_id, self._draw.choice(places), self._draw.choice(sorted(CLIENTS))
