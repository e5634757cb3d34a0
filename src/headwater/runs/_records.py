"""The records in a run's topic, and how a reader makes states and events of them.

A topic has these records, by their field ``t``:

- ``run``      the run, always the first record. With ``c``, attempt ``c`` claims it at once
- ``claim``    attempt ``c`` claims the run; ``c`` is ``<number>-<worker>``
- ``event``    attempt ``c`` sent event ``e`` with data ``d``, as its ``s``-th event, from 1
- ``release``  attempt ``c`` gave up, and another attempt may claim the run
- ``cancel``   somebody cancelled the run
- ``end``      the run ended in this state

A reader skips records of an attempt without the claim, records that were stored twice, and all
records after the first ``end``. So a producer that lost its claim does no harm, and the log needs
no fence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from headwater.eventlog import Record

State = Literal["queued", "running", "done", "failed", "cancelled", "lost"]
ENDED = frozenset({"done", "failed", "cancelled", "lost"})

# The text of a ``Fold``.
_FOLD = re.compile("([0-9]{1,12})_([0-9]{1,12})_([0-9]{1,9}-[0-9a-f]+)?(_e)?")


def worker_of(claim: str | None) -> str | None:
    """The worker of a claim."""
    return None if claim is None else claim.partition("-")[2]


def attempt_of(claim: str | None) -> int:
    """The number of a claim's attempt; 0 for none."""
    return 0 if claim is None else int(claim.partition("-")[0])


@dataclass(frozen=True, slots=True, eq=False)
class RunEvent:
    """One event of a run, as followers get it.

    Attributes:
        name: ``delta``, ``restart``, ``end``, or a name that the producer chose.
        data: a JSON value.
        number: 1, 2, 3 … within the run. A ``delta`` that combines several has the number of the
            last one.
        id: the position after it, for ``follow(after=...)``.
    """

    name: str
    data: Any
    number: int
    id: str
    encoded: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class RunState:
    """The state of a run.

    Attributes:
        id: the run's id.
        kind: the path that it was declared with, such as ``/answers``, with the values of its
            parameters: ``/rooms/7/answers``.
        owner: the id of its owner.
        state: ``queued``, ``running``, then ``done``, ``failed``, ``cancelled`` or ``lost``.
        result: the argument of ``result()``, or the value that the function returned; a JSON value.
        error: one sentence for clients, if the run failed or was lost.
        group: its group, such as a conversation, or None.
        input: the JSON value that it was started with.
        attempt: how often it was claimed.
        cancelled: whether somebody cancelled it. It then ends soon.
        claim: the attempt that has it: ``<number>-<worker>``. None before it was claimed.
        retry: whether another attempt may claim it once this one is dead.
        created_at: UTC, as are the others.
        ended_at: None before it has ended.
    """

    id: str
    kind: str
    owner: str
    state: State
    created_at: datetime
    group: str | None = None
    input: Any = None
    result: Any = None
    error: str | None = None
    cancelled: bool = False
    ended_at: datetime | None = None
    claim: str | None = None
    retry: bool = False
    first: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED

    @property
    def attempt(self) -> int:
        return attempt_of(self.claim)

    @classmethod
    def of(cls, record: Record) -> RunState:
        """Make the state of a run from the first record of its topic."""
        data = record.data
        claim = data.get("c")
        return cls(
            data["id"],
            data["kind"],
            data["owner"],
            "queued" if claim is None else "running",
            record.at,
            data.get("group"),
            data.get("input"),
            claim=claim,
            first=data,
        )

    def apply(self, record: Record) -> None:
        """Update the state with the next record, or a later one. Records may be left out."""
        data = record.data
        if self.ended:
            return
        kind, claim = data.get("t"), data.get("c")
        if kind in ("claim", "event"):
            if attempt_of(claim) > self.attempt:
                self.claim, self.state = claim, "running"
            self.retry = self.retry or data.get("retry") is True
        elif kind == "release":
            if claim == self.claim:
                self.state = "queued"
        elif kind == "cancel":
            self.cancelled = True
        elif kind == "end":
            self.state, self.ended_at = data["state"], record.at
            self.result, self.error = data.get("result"), data.get("error")

    def public(self) -> dict[str, Any]:
        """The members that the routes send, as JSON data."""
        return {
            "id": self.id,
            "state": self.state,
            "result": self.result,
            "error": self.error,
            "group": self.group,
            "attempt": self.attempt,
            "created_at": _text(self.created_at),
            "ended_at": None if self.ended_at is None else _text(self.ended_at),
        }


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(slots=True)
class Fold:
    """Decides which records of a run are events, and numbers these.

    Attributes:
        number: the number of the last event.
        claim: the attempt whose events count.
        stored: how many events of this attempt were taken.
        ended: whether the first ``end`` was taken.
    """

    number: int = 0
    claim: str | None = None
    stored: int = 0
    ended: bool = False

    def take(self, record: Record) -> tuple[str, Any] | None:
        """Take the next record. Returns its event's name and data; None if it is no event."""
        if self.ended:
            return None
        data = record.data
        kind, claim = data.get("t"), data.get("c")
        if kind == "event":
            if claim != self.claim or data["s"] != self.stored + 1:
                return None
            self.stored += 1
            self.number += 1
            return data["e"], data["d"]
        if kind == "end":
            self.ended = True
            self.number += 1
            return "end", {"state": data["state"]}
        if kind in ("run", "claim") and claim is not None:
            if attempt_of(claim) <= attempt_of(self.claim):
                return None
            self.claim, self.stored = claim, 0
            if attempt_of(claim) > 1:
                self.number += 1
                return "restart", {"attempt": attempt_of(claim)}
        return None

    def __str__(self) -> str:
        """The state of the fold as a part of a position."""
        return f"{self.number}_{self.stored}_{self.claim or ''}{'_e' if self.ended else ''}"

    @classmethod
    def parse(cls, text: str) -> Fold:
        """Read what ``str()`` gave. Raises ValueError for anything else."""
        found = _FOLD.fullmatch(text)
        if found is None:
            raise ValueError(text)
        number, stored, claim, end = found.groups()
        return cls(int(number), claim or None, int(stored), bool(end))
