"""Secrets of callers: 256 random bits, of which only the SHA-256 is stored.

A fast hash is enough, because 256 bits cannot be guessed. An index finds the hash at once.
"""

from __future__ import annotations

import hashlib
import secrets

API_KEY = "hw_"
SATELLITE_KEY = "hws_"


def new_token(prefix: str = "") -> str:
    """A new secret."""
    return prefix + secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """The hash that is stored and looked up, also of other texts that strangers send."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
