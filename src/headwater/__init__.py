"""Headwater: feeds over REST and Server-Sent Events that never lose or repeat an item."""

__version__ = "0.1.0"
