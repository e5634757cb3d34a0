"""Checks that a request with a cookie was made by one of our own pages.

A browser sends the cookie with requests that other pages make, so a request that changes
something must name its origin. Programs without a cookie need not.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from fastapi import Request

from headwater.web.problems import Problem

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
# RFC 6454, 6.2: an origin is a scheme, a host and a port, and nothing else. A parser of URLs would
# take `http://evil\@here` for one of `here`.
_ORIGIN = re.compile(rf"(?P<scheme>https?)://{_HOST}", re.IGNORECASE)
# A referer is an address, whose origin ends where its path begins.
_REFERER = re.compile(rf"(?P<scheme>https?)://{_HOST}(?=[/?#]|$)", re.IGNORECASE)
_HOST_HEADER = re.compile(_HOST, re.IGNORECASE)


def check_origin(request: Request, allowed: Collection[str]) -> None:
    """Raise 403 for an unsafe method from another origin than this host or one in ``allowed``.

    The scheme is not compared for this host: behind a proxy that ends TLS it is unknown here.
    Without Origin and Referer, as curl sends it, the request may pass unless the browser itself
    says (Sec-Fetch-Site) that another site made it.
    """
    if request.method in SAFE_METHODS:
        return
    origins = request.headers.getlist("origin")
    referers = request.headers.getlist("referer")
    if len(origins) > 1 or len(referers) > 1:
        raise Problem(403, "The request names its origin more than once.")
    if not origins and not referers:
        if request.headers.get("sec-fetch-site", "none") in {"same-origin", "none"}:
            return
        raise Problem(403, "The request comes from another site, and has no Origin header.")
    claimed = origins[0] if origins else referers[0]
    found = _ORIGIN.fullmatch(claimed) if origins else _REFERER.match(claimed)
    if found is not None:
        scheme = found["scheme"].lower()
        ours = _HOST_HEADER.fullmatch(request.headers.get("host", ""))
        if ours is not None and _place(found, scheme) == _place(ours, scheme):
            return
        if found[0].lower() in allowed:
            return
    raise Problem(
        403,
        f"Origin {claimed[:100]!r} is not this host: requests with a session cookie must come from "
        "this site's own pages.",
    )


def _place(found: re.Match[str], scheme: str) -> tuple[str, int]:
    """Host and port, which the scheme says where the text does not."""
    return found["host"].lower(), int(found["port"] or _DEFAULT_PORTS[scheme])
