"""Checks that a request with a cookie was made by one of our own pages.

A browser sends the cookie with requests that other pages make, so a request that changes
something must name its origin. Programs without a cookie need not.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import Request

from headwater.backend.problems import forbidden

__all__ = ["SAFE_METHODS", "check_origin"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_origin(request: Request, allowed: Collection[str]) -> None:
    """Raise 403 for an unsafe method from another origin than this host or one in ``allowed``.

    The scheme is not compared for this host: behind a proxy that ends TLS it is unknown here.
    Without Origin and Referer, as curl sends it, the request may pass unless the browser itself
    says (Sec-Fetch-Site) that another site made it.
    """
    if request.method in SAFE_METHODS:
        return
    claimed = request.headers.get("origin") or request.headers.get("referer")
    if claimed is None:
        if request.headers.get("sec-fetch-site", "none") in {"same-origin", "none"}:
            return
        raise forbidden("The request comes from another site, and it says nothing of its origin.")
    try:
        parts = urlsplit(claimed)
        default = _DEFAULT_PORTS.get(parts.scheme)
        theirs = (parts.hostname, parts.port or default)
        ours = urlsplit(f"//{request.headers.get('host', '')}")
        same = theirs == (ours.hostname, ours.port or default)
    except ValueError:
        same = False
    if same and parts.hostname:
        return
    if claimed != "null" and f"{parts.scheme}://{parts.netloc}".lower() in allowed:
        return
    raise forbidden(
        f"Origin {claimed[:100]!r} is not this host: requests with a session cookie must come from "
        "this site's own pages."
    )
