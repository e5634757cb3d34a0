"""Client addresses: which of them count as one client, and which peers are trusted proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

_LONGEST = 64
# RFC 4291, 2.5.5.2: how a socket for both families, as at `::`, names a client of IPv4.
_MAPPED = "::ffff:"


def plain(address: str) -> str:
    """An address of IPv4 as such, also where it is written as one of IPv6."""
    bare = address.removeprefix(_MAPPED)
    return bare if "." in bare and bare.replace(".", "").isdecimal() else address


def network_of(address: str | None) -> str:
    """The network within which one client can easily change its address: a /64 for IPv6.

    RFC 6177 gives a site at least a /64, so a limit for each IPv6 address would be none.
    """
    if not address:
        return "unknown"
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:_LONGEST]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((int(found), 64), strict=False))
    return str(found)


class Proxies:
    """The peers whose ``X-Forwarded-For`` is believed. They speak for many clients.

    Arguments:
        listed: addresses and networks, in one text with commas or as a list; ``"*"`` is everyone.
    """

    def __init__(self, listed: str | Iterable[str] | None) -> None:
        parts = listed.split(",") if isinstance(listed, str) else list(listed or ())
        names = {part.strip() for part in parts} - {""}
        self._everyone = "*" in names
        self._names = names
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for name in names:
            try:
                self._networks.append(ipaddress.ip_network(name, strict=False))
            except ValueError:
                continue  # a name, which is compared as it is

    @property
    def listed(self) -> list[str]:
        """The same for a server that knows no IPv4 in the form of IPv6."""
        if self._everyone:
            return ["*"]
        mapped = [
            f"{_MAPPED}{each.network_address}/{96 + each.prefixlen}"
            for each in self._networks
            if each.version == 4
        ]
        return [*sorted(self._names), *map(str, self._networks), *mapped]

    def __contains__(self, address: str) -> bool:
        if self._everyone or address in self._names:
            return True
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
            found = found.ipv4_mapped
        return any(found in network for network in self._networks)
