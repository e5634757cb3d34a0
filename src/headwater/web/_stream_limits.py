"""How many streams and waiting polls one caller, one client address and all of them may have."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headwater.delivery._unread import UNREAD_BYTES
from headwater.errors import DeclarationError
from headwater.feeds._checks import check_count
from headwater.feeds._page_size import PAGE_BYTES
from headwater.web._addresses import Proxies, network_of

__all__ = ["LimitReachedError", "StreamLimits", "StreamPlace", "StreamPlaces", "limit_retry"]

_RETRY = (5000, 10_000)


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
        unread_bytes: of all streams that clients have not taken. Above it the stream whose client
            took nothing for the longest time is dropped.
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
        if isinstance(listed, bytes) or not isinstance(listed, (str, Collection)):
            listed = [None]
        if not isinstance(listed, str) and not all(isinstance(each, str) for each in listed):
            raise DeclarationError(
                f"StreamLimits(proxies={self.proxies!r}): addresses and networks are needed, such "
                "as ['10.0.0.0/8'], or '*'"
            )


def limit_retry() -> int:
    """Milliseconds after which a client that met a limit comes back, at random."""
    return random.randint(*_RETRY)


class LimitReachedError(Exception):
    """A stream or a poll has no place. ``str()`` says which limit is reached."""


class StreamPlace:
    """A place of a caller in a network. It is the same for all that the caller takes there."""

    __slots__ = ("_places", "network", "subjects", "taken")

    def __init__(self, places: StreamPlaces, subjects: tuple[str, ...], network: str) -> None:
        self._places = places
        self.subjects = subjects
        self.network = network
        self.taken = 0

    def give_back(self) -> None:
        """Let another have it."""
        self._places.give_back(self)


class StreamPlaces:
    """Counts the places that are taken."""

    def __init__(self, limits: StreamLimits) -> None:
        self._limits = limits
        self._proxies = Proxies(limits.proxies)
        self._places: dict[tuple[tuple[str, ...], str], StreamPlace] = {}
        self._by_caller: dict[tuple[str, ...], int] = {}
        self._by_network: dict[str, int] = {}
        self._total = 0

    def take(self, subjects: tuple[str, ...], scope: Mapping[str, Any]) -> StreamPlace:
        """Take a place for a request. Raises LimitReachedError."""
        client = scope.get("client")
        # Without an address it comes through a Unix socket, which is a proxy's.
        address = client[0] if client else None
        exempt = address is None or address in self._proxies
        network = "" if exempt else network_of(address)
        limits = self._limits
        for taken, most, whose in (
            (self._by_caller.get(subjects, 0), subjects and limits.per_caller, "this user"),
            (self._by_network.get(network, 0), network and limits.per_address, "this address"),
            (self._total, limits.total, "this server"),
        ):
            if most and taken >= most:
                raise LimitReachedError(
                    f"{whose} has {most} open streams and polls, as many as it may"
                )
        self._total += 1
        if subjects:
            self._by_caller[subjects] = self._by_caller.get(subjects, 0) + 1
        if network:
            self._by_network[network] = self._by_network.get(network, 0) + 1
        place = self._places.get((subjects, network))
        if place is None:
            place = self._places[subjects, network] = StreamPlace(self, subjects, network)
        place.taken += 1
        return place

    def give_back(self, place: StreamPlace) -> None:
        """Give a place back."""
        self._total -= 1
        place.taken -= 1
        if not place.taken:
            del self._places[place.subjects, place.network]
        _one_less(self._by_caller, place.subjects)
        _one_less(self._by_network, place.network)

    def __len__(self) -> int:
        return self._total


def _one_less(counts: dict[Any, int], key: Any) -> None:
    left = counts.get(key, 0) - 1
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)
