"""Notifications of the demo."""

from __future__ import annotations

import random

from headwater.backend.demo.cast import Cast
from headwater.backend.models import NotificationLevel
from headwater.backend.notifications.schemas import NotificationCreate

_Kind = tuple[NotificationLevel, str, str]
_PERSONAL: tuple[_Kind, ...] = (
    ("info", "New sign-in from {city}", "If that was not you, change your password."),
    ("info", "{person} mentioned you", "“Can you look at the retry limit in the router?”"),
    ("success", "Your export is ready", "{n} rows, kept for 7 days."),
    ("warning", "Your API key “{key}” was not used for {n} days", "Delete it if it is not needed."),
    ("success", "Your deployment is live", "Version {v} answers all requests now."),
    ("error", "Your scheduled query failed", "The table it reads no longer exists."),
)
_TEAM: tuple[_Kind, ...] = (
    ("success", "Release {v} is out", "All satellites have taken it."),
    ("info", "{person} joined the team", ""),
    ("warning", "CPU above 80 % on {satellite}", "For {n} minutes by now."),
    ("error", "{satellite} reports errors", "{n} requests failed in the last minute."),
    (
        "info",
        "Maintenance on Sunday, 02:00 UTC",
        "For {n} minutes; streams resume by themselves.",
    ),
    ("success", "{satellite} recovered", "No errors for {n} minutes."),
)
_WORDS = {
    "city": ("Lisbon", "Oslo", "Singapore", "Toronto"),
    "person": ("Mira", "Jonas", "Ada", "Theo"),
    "key": ("ci", "laptop", "backup"),
    "v": ("2.14.0", "2.14.1", "2.15.0"),
}


def notice(draw: random.Random, cast: Cast) -> NotificationCreate:
    """A notification to one of the two users that can sign in, or to a team."""
    words = {name: draw.choice(values) for name, values in _WORDS.items()}
    words |= {"n": str(draw.randint(3, 40)), "satellite": draw.choice(sorted(cast.satellites))}
    if draw.random() < 0.55:
        recipient = {"team_id": draw.choice(sorted(cast.teams.values()))}
        level, title, body = draw.choice(_TEAM)
    else:
        recipient = {"user_id": draw.choice(cast.viewers)}
        level, title, body = draw.choice(_PERSONAL)
    title, body = title.format(**words), body.format(**words)
    return NotificationCreate(**recipient, level=level, title=title, body=body)
