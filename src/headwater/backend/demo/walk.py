"""Metrics that wander: a daily shape, a slow drift, and load when something is wrong."""

from __future__ import annotations

import math
import random
from datetime import datetime

from headwater.backend.satellites.schemas import MetricsReport

_DAY = 86_400.0


class Walk:
    """One satellite's load.

    Arguments:
        draw: the source of chance.
        hour: when its day is busiest, 0 to 24 UTC.
    """

    def __init__(self, draw: random.Random, hour: float) -> None:
        self._draw = draw
        self._phase = hour / 24
        self._drift = draw.gauss(0, 0.3)
        self._memory = draw.uniform(900, 1500)
        self._trouble = 0.0

    def strain(self, amount: float = 1.0) -> None:
        """Begin an incident: load and errors rise, and fall again by themselves."""
        self._trouble = min(self._trouble + amount, 2.0)

    def step(self, at: datetime) -> MetricsReport:
        """The next measurement."""
        draw = self._draw
        day = (at.timestamp() % _DAY) / _DAY
        shape = 0.5 + 0.35 * math.cos(2 * math.pi * (day - self._phase))
        # Pulled back to the middle, so that it wanders and does not run away.
        self._drift += -0.05 * self._drift + draw.gauss(0, 0.06)
        self._trouble *= 0.93
        load = min(max(shape + 0.35 * self._drift + 0.25 * self._trouble, 0.03), 1.0)
        # Memory grows with work until it is collected.
        self._memory += load * draw.uniform(2, 9)
        if self._memory > draw.uniform(2100, 2900):
            self._memory -= draw.uniform(500, 900)
        requests = 180 * load * draw.uniform(0.85, 1.15)
        errors = requests * (0.002 + 0.05 * self._trouble) * draw.uniform(0.2, 1.8)
        return MetricsReport(
            at=at,
            cpu_percent=round(min(100 * load * draw.uniform(0.92, 1.08), 100.0), 1),
            memory_mb=round(self._memory, 1),
            requests_per_s=round(requests, 1),
            errors_per_s=round(errors, 2),
        )
