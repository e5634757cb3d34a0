"""What stands in a run's topic, and what it means to a reader.

A topic has these records, by their ``t``:

- ``run``      the run itself, always first; with ``c`` it is claimed by that attempt at once
- ``claim``    an attempt ``c`` has it; ``c`` is ``<number>-<worker>``
- ``event``    an event ``e`` with data ``d`` of attempt ``c``, the ``s``-th of it, from 1
- ``release``  attempt ``c`` gave up, and another one may come
- ``cancel``   somebody cancelled it
- ``end``      the state in which it ended

A reader skips what an attempt without the claim wrote, what was stored twice, and all that comes
after the first ``end``. So a producer that lost its claim cannot do harm, and the log needs no
fence of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from headwater.eventlog import Record
from headwater.feeds._clock import utc_now

__all__ = ["ENDED", "STATES", "Fold", "RunEvent", "RunState", "State", "attempt_of", "worker_of"]

State = Literal["queued", "running", "done", "failed", "cancelled", "lost"]
STATES: tuple[State, ...] = ("queued", "running", "done", "failed", "cancelled", "lost")
ENDED = frozenset({"done", "failed", "cancelled", "lost"})


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
        name: ``delta``, a name of yours, ``restart`` or ``end``.
        data: a JSON value.
        number: 1, 2, 3 … within the run. A large ``delta`` that stands for several has the number
            of the last one.
        id: the position after it, for ``follow(after=...)``.
    """

    name: str
    data: Any
    number: int
    id: str
    encoded: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class RunState:
    """A run as it is.

    Attributes:
        id: the run's id.
        kind: which runs it is of: the path that it was declared with, such as ``/answers``, where
            values stand for parameters: ``/rooms/7/answers``.
        owner: whose it is.
        state: ``queued``, ``running``, then ``done``, ``failed``, ``cancelled`` or ``lost``.
        result: what ``result()`` was given, or the handler returned; a JSON value.
        error: one sentence for clients, where it failed or was lost.
        group: the value of the group's field, or None.
        input: what it was started with; a JSON value.
        attempt: how often it was claimed.
        cancelled: somebody cancelled it; it ends soon.
        claim: which attempt has it, and of which process.
        retry: another attempt may come once this one is dead.
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
        """The run that a topic's first record began."""
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

    @classmethod
    def planned(cls, run_id: str, kind: str, owner: str) -> RunState:
        """A run that is not created yet."""
        return cls(run_id, kind, owner, "queued", utc_now())

    def apply(self, record: Record) -> None:
        """Take the next record, or a later one."""
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
        """The state as the routes give it, JSON."""
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
    """A reader of one run: it says which records are events, and numbers them.

    Attributes:
        number: of the last event.
        claim: the attempt whose events count.
        stored: how many events of this attempt were taken.
        ended: the first ``end`` was taken.
    """

    number: int = 0
    claim: str | None = None
    stored: int = 0
    ended: bool = False

    def take(self, record: Record) -> tuple[str, Any] | None:
        """The name and data of the event that a record is; None if it is none."""
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
        """Where it is, for a position."""
        return f"{self.number}_{self.stored}_{self.claim or ''}{'_e' if self.ended else ''}"

    @classmethod
    def parse(cls, text: str) -> Fold:
        """Read what ``str()`` gave. Raises ValueError for anything else."""
        number, stored, claim, *end = text.split("_")
        if end not in ([], ["e"]) or (claim and not claim.partition("-")[0].isdigit()):
            raise ValueError(text)
        return cls(int(number), claim or None, int(stored), bool(end))
