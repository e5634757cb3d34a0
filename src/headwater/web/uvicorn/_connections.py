"""All connections of one server: how many there may be, and how long each may keep it waiting.

One timer serves all connections. Deadlines of one kind are equally far away, so each kind is a
queue: a new deadline goes to its end, and those that are due stand at its front.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Hashable
from typing import Protocol

from headwater.delivery._taken import taken
from headwater.delivery._unread import Unread
from headwater.web._addresses import Proxies, network_of
from headwater.web.uvicorn._limits import REASONS, ConnectionCounters, Limits

if sys.platform != "win32":  # which has no such limit
    import resource

logger = logging.getLogger("headwater.web")

# Connections above the limits that are kept, for the paths in `always`.
_SPARE = 32
# Seconds for which a connection is read on after its refusal, so that the client can take it: a
# socket that is closed with bytes unread is reset, and what was sent last is lost.
_LINGER = 2.0
_LOG_EVERY = 60.0
_LOOK_EVERY = 1.0
# Seconds between two looks for connections of streams that have ended: always, and while new
# connections find no place. Each look goes through all connections.
_CLOSED_EVERY = 5.0
_CLOSED_SOON = 0.1


class Held(Protocol):
    """One connection.

    Attributes:
        waits: the queue in which it waits for its client, or None.
    """

    transport: asyncio.Transport
    waits: Waiting | None

    @property
    def unread(self) -> int:
        """Bytes of answers that the client has not taken."""
        ...

    @property
    def caller(self) -> Hashable:
        """On whose behalf the latest request is."""
        ...

    @property
    def received(self) -> int:
        """Bytes of the present request's body."""
        ...

    @property
    def keeps_client_waiting(self) -> bool:
        """Whether the application, and not the client, holds a request's body up."""
        ...

    def overdue(self) -> None:
        """The client did not send or take bytes in time."""
        ...

    def abort(self) -> None:
        """Drop the connection at once."""
        ...


class Waiting(dict[Held, float]):
    """Connections that wait for their clients, each with its deadline.

    Attributes:
        seconds: how long each may wait.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Connections:
    """Counts the connections of one server, and closes those that keep it waiting.

    Arguments:
        counters: what is refused and closed is counted there.
        proxies: the peers that are exempt from the limit of one address.
        keep_alive: seconds that a connection may stay open without a request.

    Attributes:
        heads: connections whose request's head is not whole.
        idle: connections between two requests.
        bodies: connections whose request's body is not whole. Bytes that come move the deadline.
        lingering: connections that were refused.
    """

    def __init__(
        self,
        limits: Limits,
        counters: ConnectionCounters,
        proxies: Proxies,
        keep_alive: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.limits = limits
        self.heads = Waiting(limits.head_seconds)
        self.idle = Waiting(keep_alive)
        self.bodies = Waiting(limits.body_seconds)
        self.lingering = Waiting(_LINGER)
        self._queues = (self.heads, self.idle, self.lingering, self.bodies)
        self._counters = counters
        self._proxies = proxies
        self._loop = loop
        # The lowest free number is given to a new descriptor: one this high means that nearly all
        # are in use, whoever uses them.
        self._last_number = _last_number(limits)
        self._most: float | None = None
        self._networks: dict[asyncio.BaseTransport, str] = {}
        self._by_network: Counter[str] = Counter()
        self._spare: dict[Held, None] = {}
        self._looked_for_closed = -_CLOSED_EVERY
        # Connections whose clients take no bytes of their answers.
        self._unread: Unread[Held] = Unread(
            limits.unread_bytes,
            lambda one: one.unread,
            lambda one: taken(one.transport),
            lambda one: one.caller,
            loop.time,
            self._drop,
        )
        self._every = min(_LOOK_EVERY, *(queue.seconds / 4 for queue in self._queues))
        self._timer: asyncio.TimerHandle | None = None
        self._unlogged: Counter[str] = Counter()
        self._logged_at = -_LOG_EVERY

    # Places

    def enter(self, protocol: Held, address: str | None, number: int) -> str | None:
        """Give a new connection a place.

        Returns None, or why it has none. Then it is one of a few connections above the limits, for
        which only the paths in ``always`` are answered, or it was dropped.

        Arguments:
            address: its client's, None for a Unix socket.
            number: its file descriptor.
        """
        transport = protocol.transport
        network = "" if address is None or address in self._proxies else network_of(address)
        self._networks[transport] = network
        self._counters.open += 1
        if self._most is None:
            # The first connection's number says how many descriptors other things have.
            free = max(1.0, self._last_number - number)
            self._most = min(self.limits.connections or free, free)
        if network:
            self._by_network[network] += 1
        if self._is_over(network) or self._is_full(number):
            self._forget_closed(_CLOSED_SOON)
            if self._is_over(network):
                return self._spare_place(protocol, "address")
            # The connection that has waited longest for its client makes room: a client that has
            # a request sends it at once.
            if self._is_full(number) and not self._close_one():
                return self._spare_place(protocol, "all")
        return None

    def _is_over(self, network: str) -> bool:
        assert self._most is not None
        # Nobody has more than half of all, however few these are.
        most = min(self.limits.connections_per_address, max(1.0, self._most / 2))
        return self._by_network[network] > most

    def _is_full(self, number: int) -> bool:
        assert self._most is not None
        placed = len(self._networks) - len(self._spare)
        return placed > self._most or number >= self._last_number

    def _close_one(self) -> bool:
        for queue in (self.heads, self.idle):
            for protocol in queue:
                if protocol not in self._spare:
                    self.count("made_room")
                    protocol.abort()
                    return True
        return False

    def _spare_place(self, protocol: Held, why: str) -> str:
        self.count(why)
        if len(self._spare) >= _SPARE:
            # One that has a request is answered soon; one that sends slowly keeps its place only
            # for as long as nobody else wants it.
            slow = next((each for each in self._spare if each.waits is not None), None)
            if slow is None:
                protocol.abort()
                return why
            slow.abort()
        self._spare[protocol] = None
        return why

    def stream(self, protocol: Held) -> None:
        """A stream has taken a connection over: it keeps its place until it is closed."""
        self._forget(protocol)
        self._arm()

    def leave(self, protocol: Held) -> None:
        """A connection is closed."""
        self._forget(protocol)
        self._release(protocol.transport)

    def _forget(self, protocol: Held) -> None:
        self.wait(protocol, None)
        self.read(protocol)
        self._spare.pop(protocol, None)

    def _release(self, transport: asyncio.BaseTransport) -> None:
        network = self._networks.pop(transport, None)
        if network is None:
            return
        self._counters.open -= 1
        if network:
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]

    def _forget_closed(self, every: float) -> None:
        # A stream's connection has another owner, which does not report its end.
        now = self._loop.time()
        if now - self._looked_for_closed < every:
            return
        self._looked_for_closed = now
        for transport in [each for each in self._networks if each.is_closing()]:
            self._release(transport)

    # Deadlines

    def wait(self, protocol: Held, queue: Waiting | None) -> None:
        """Let a connection wait for its client in this queue; in none for None."""
        before = protocol.waits
        if before is not None:
            before.pop(protocol, None)
        protocol.waits = queue
        if queue is not None:
            queue[protocol] = self._loop.time() + queue.seconds
            if self._timer is None:
                self._arm()

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for queue in (self.heads, self.idle, self.lingering):
            for protocol, until in tuple(queue.items()):
                if until > now:
                    break
                protocol.overdue()
        for protocol, until in tuple(self.bodies.items()):
            if until + protocol.received / self.limits.body_rate <= now:
                if protocol.keeps_client_waiting:
                    self.bodies[protocol] = now + self.bodies.seconds
                else:
                    protocol.overdue()
        # The transport takes a short answer at once, and nobody waits for its client then.
        for protocol in [each for each in self.idle if each.unread]:
            self._unread.add(protocol)
        self._unread.look(self.limits.unread_seconds)
        self._forget_closed(_CLOSED_EVERY)
        self._log(now)
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and (
            any(self._queues) or self._unread.waiting or self._networks or self._unlogged
        ):
            self._timer = self._loop.call_later(self._every, self._look)

    # Answers that clients do not read

    def unread(self, protocol: Held) -> None:
        """The client of a connection takes no bytes of its answer."""
        self._unread.add(protocol)
        self._arm()

    def read(self, protocol: Held) -> None:
        """The client takes bytes again, or is gone."""
        self._unread.discard(protocol)

    def _drop(self, protocol: Held, _stalled: bool) -> None:
        self.count("unread")
        protocol.abort()

    # What is reported

    def count(self, reason: str) -> None:
        """A connection was refused or closed."""
        self._counters.by_reason[reason] += 1
        self._unlogged[reason] += 1
        self._log(self._loop.time())
        self._arm()

    def _log(self, now: float) -> None:
        """Report what was counted: at once, and then at most once a minute."""
        if not self._unlogged or now - self._logged_at < _LOG_EVERY:
            return
        self._logged_at = now
        counted, self._unlogged = self._unlogged, Counter()
        found = ", ".join(f"{number} {REASONS[reason]}" for reason, number in counted.items())
        logger.warning("connections refused or closed: %s; %d are open", found, self._counters.open)


def _last_number(limits: Limits) -> float:
    if sys.platform == "win32":
        return float("inf")
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return float("inf")
    reserve = limits.reserve
    if reserve is None:
        reserve = min(1024, max(32, most // 8))
    return max(1, most - reserve)
