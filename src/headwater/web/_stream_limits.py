"""How many streams and waiting polls one caller, one client address and all of them may have."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.delivery._unread import UNREAD_BYTES
from headwater.errors import DeclarationError
from headwater.feeds._checks import check_count
from headwater.feeds._page_size import PAGE_BYTES
from headwater.web._addresses import Proxies, network_of
from headwater.web._whole_responses import StreamRefusedError

# Milliseconds after which a client that met a limit comes back, at random.
_RETRY = (5000, 10_000)
# Counts all places.
_ALL = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """The limits of pages, of open streams and of polls that wait, for one process.

    Attributes:
        per_caller: of requests with the same subjects; see ``identify``. Those without any are not
            limited by it.
        per_address: of one client address, or of one /64 of IPv6.
        total: of all. For these three None is no limit.
        page_bytes: of JSON in a page or a snapshot with more than one item; one of longer items has
            fewer of them and ``has_more``.
        unread_bytes: of all streams that clients have not taken. Above it the caller for whom most
            bytes wait loses the stream whose client took nothing for the longest time.
        proxies: peers that are exempt from ``per_address``, since they speak for many clients:
            addresses and networks, or ``"*"``. A request that a server counts as a client's of a
            proxy (by ``X-Forwarded-For``) has that client's address.
    """

    per_caller: int | None = 50
    per_address: int | None = 200
    total: int | None = None
    page_bytes: int = PAGE_BYTES
    unread_bytes: int = UNREAD_BYTES
    proxies: str | Sequence[str] = ("127.0.0.1", "::1")

    def __post_init__(self) -> None:
        for name in ("per_caller", "per_address", "total"):
            value = getattr(self, name)
            if value is not None:
                check_count(f"StreamLimits({name}={value!r})", value, 1, ", or None for no limit")
        for name in ("page_bytes", "unread_bytes"):
            value = getattr(self, name)
            check_count(f"StreamLimits({name}={value!r})", value, 1024, ", in bytes")
        listed: Any = self.proxies
        if not isinstance(listed, Collection) or not all(isinstance(each, str) for each in listed):
            raise DeclarationError(
                f"StreamLimits(proxies={self.proxies!r}): write addresses and networks, such as "
                "['10.0.0.0/8'], or '*'"
            )


class LimitReachedError(StreamRefusedError):
    """A stream or a poll has no place. ``str()`` says which limit is reached."""


class StreamPlace:
    """A place that was taken: of a caller, of a network and of all."""

    __slots__ = ("_keys", "_taken")

    def __init__(self, taken: Counter[Hashable], keys: tuple[Hashable, ...]) -> None:
        self._taken = taken
        self._keys = keys
        taken.update(keys)

    def give_back(self) -> None:
        """Let another have it."""
        self._taken.subtract(self._keys)
        for key in self._keys:
            if not self._taken[key]:
                del self._taken[key]


class StreamPlaces:
    """Counts the places that are taken."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._proxies = Proxies(limits.proxies)
        self._taken: Counter[Hashable] = Counter()

    def take(self, subjects: tuple[str, ...], scope: Mapping[str, Any]) -> StreamPlace:
        """Take a place for a request. Raises LimitReachedError."""
        client = scope.get("client")
        # Without an address it comes through a Unix socket, which is a proxy's.
        address = client[0] if client else None
        exempt = address is None or address in self._proxies
        network = "" if exempt else network_of(address)
        limits = self._limits
        for key, most, whose in (
            (subjects, subjects and limits.per_caller, "this user"),
            (network, network and limits.per_address, "this address"),
            (_ALL, limits.total, "this server"),
        ):
            if most and self._taken[key] >= most:
                reason = f"{whose} has {most} open streams and polls, as many as it may"
                raise LimitReachedError(reason, random.randint(*_RETRY))
        return StreamPlace(self._taken, (subjects, network, _ALL))
