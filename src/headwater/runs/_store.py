"""Runs in an event log: the topics, and the appends that decide between processes.

The names of all topics begin with ``run:NAME:``. ``trim`` without a topic does not touch them.

- ``r:ID``    one run; see ``_records``
- ``o:HASH``  a keyed topic: the runs of one owner and kind, for lists and their streams
- ``g:HASH``  one record for each run of a group; a run waits for the one before it
- ``news``    what happened to any run, for the processes that watch and produce
- ``beats``   signs of life of the processes that produce

Appends to ``r:`` and ``g:`` have keys, so the first writer wins. Then ``news`` notifies the other
processes. If a process dies between the two, a process that watches notifies them instead.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from headwater.eventlog import START, EventLog, KeyedTopic, Offset, Record
from headwater.runs._records import RunState, State, worker_of

Busy = Literal["reject", "cancel", "queue", "allow"]

# An `end` is among so many last records of a run's topic: only the last batches of attempts that
# lost the run can come after it.
TAIL = 40
# How many runs of one group may wait for each other.
MAX_WAITING = 20
# Records per read.
PAGE = 500

# How many runs are read, ended or forgotten at the same time.
ABREAST = 50

T = TypeVar("T")


def in_parts(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of ``ABREAST`` at most."""
    return (whole[start : start + ABREAST] for start in range(0, len(whole), ABREAST))


class BusyError(Exception):
    """The group has an active run.

    Attributes:
        active: its id.
    """

    def __init__(self, active: str) -> None:
        super().__init__(active)
        self.active = active


class KeyConflictError(Exception):
    """The idempotency key was used for another body."""


@dataclass(frozen=True, slots=True)
class Created:
    """The result of ``create``.

    Attributes:
        state: the run.
        is_new: whether this call created the run. If not, another call with the same key did.
        after: the id of the run of the group that must end first, or None.
    """

    state: RunState
    is_new: bool
    after: str | None = None

    @classmethod
    def known(cls, state: RunState, hashed: str) -> Created:
        """The result for a run that exists already. Raises KeyConflictError for another hash."""
        if state.first.get("hash") != hashed:
            raise KeyConflictError
        return cls(state, is_new=False)


def digest(*names: str) -> str:
    """A hash of names, for a topic or an id: 32 hexadecimal digits."""
    text = "\0".join(f"{len(name)}:{name}" for name in names)
    return hashlib.blake2s(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Store:
    """The runs in one log. Its methods raise SourceUnavailableError.

    Arguments:
        name: the name of the ``Runs``. One log may hold several.
    """

    def __init__(self, log: EventLog, name: str) -> None:
        self.log = log
        self._prefix = f"run:{name}:"
        self.news = f"{self._prefix}news"
        self.beats = f"{self._prefix}beats"

    def topic(self, run_id: str) -> str:
        """The topic of a run."""
        return f"{self._prefix}r:{run_id}"

    def owners_topic(self, kind: str, owner: str) -> str:
        """The topic of an owner's runs."""
        return f"{self._prefix}o:{digest(kind, owner)}"

    def _groups_topic(self, kind: str, owner: str, group: str) -> str:
        return f"{self._prefix}g:{digest(kind, owner, group)}"

    # Reading

    async def state(self, run_id: str) -> RunState | None:
        """The present state of a run; None if it does not exist or was forgotten."""
        topic = self.topic(run_id)
        run = await self.log.read(topic, START, 3)
        if not run.records or run.records[0].data.get("t") != "run":
            return None
        found = RunState.of(run.records[0])
        for record in run.records[1:]:
            found.apply(record)
        if not found.ended and run.bounds.latest > run.records[-1].offset:
            latest = await self.log.latest(topic, TAIL)
            for record in latest.records:
                if record.offset > run.records[-1].offset:
                    found.apply(record)
        return found

    # Beginning

    async def create(
        self, planned: RunState, busy: Busy, hashed: str, worker: str, *, claimed: bool
    ) -> Created:
        """Create a run, or find the one that has this id already.

        Arguments:
            planned: the run, with its kind, owner, group and input.
            hashed: a hash of the request. Another hash with the same id is a conflict.
            worker: the worker that starts the run.
            claimed: whether ``worker`` claims the run at once, unless it waits for its group.

        Raises BusyError and KeyConflictError.
        """
        run_id, nonce = planned.id, secrets.token_hex(8)
        data = {
            "t": "run", "id": run_id, "kind": planned.kind, "owner": planned.owner,
            "group": planned.group, "hash": hashed, "input": planned.input, "w": worker,
            "nonce": nonce,
        }  # fmt: skip
        group = None
        if planned.group is not None:
            group = self._groups_topic(planned.kind, planned.owner, planned.group)
        if group is not None and busy == "reject":
            before = await self._last(group)
            if before is not None and before.data["id"] != run_id:
                active = await self._active(before)
                if active is not None:
                    raise BusyError(active.id)
        await self.notify({"t": "new", "id": run_id, "w": worker})
        if group is not None and busy != "allow":
            try:
                data = await self._enter_group(group, data, busy, claimed)
            except BusyError:
                await self.notify({"t": "end", "id": run_id})
                raise
        else:
            if claimed:
                data["c"] = f"1-{worker}"
            if group is not None:
                await self.log.append(group, {"id": run_id, "depth": 0, "run": data})
        record = await self.first(self.topic(run_id), data, "new")
        found = RunState.of(record)
        if record.data["nonce"] != nonce:
            return Created.known(await self.state(run_id) or found, hashed)
        return Created(found, is_new=True, after=data.get("after"))

    async def _last(self, group: str) -> Record | None:
        """The last record of a group's topic."""
        last = (await self.log.latest(group, 1)).records
        return last[0] if last else None

    async def _enter_group(
        self, group: str, data: dict[str, Any], busy: Busy, claimed: bool
    ) -> dict[str, Any]:
        """Put the run behind the last one of its group.

        The record holds the whole run. If this process dies now, another one can create the run
        from it. Returns the run's first record.
        """
        while True:
            before = await self._last(group)
            if before is not None and before.data["id"] == data["id"]:
                return dict(before.data["run"])
            active = None if before is None else await self._active(before)
            own = dict(data)
            depth = 0
            if active is not None and before is not None:
                depth = int(before.data["depth"]) + 1
                if busy == "reject" or depth > MAX_WAITING:
                    raise BusyError(active.id)
                own["after"] = active.id
            elif claimed:
                own["c"] = f"1-{data['w']}"
            entry = {"id": data["id"], "depth": depth, "run": own}
            name = "-" if before is None else before.data["id"]
            won = await self.first(group, entry, f"after:{name}")
            if won.data["id"] == data["id"]:
                return dict(won.data["run"])

    async def latest(self, kind: str, owner: str, group: str) -> RunState | None:
        """The run that entered a group last."""
        last = await self._last(self._groups_topic(kind, owner, group))
        return None if last is None else await self._entered(last)

    async def _active(self, entry: Record) -> RunState | None:
        """The run of a group's entry, if it has not ended."""
        found = await self._entered(entry)
        return None if found is None or found.ended else found

    async def _entered(self, entry: Record) -> RunState | None:
        """The run of a group's entry."""
        run_id = entry.data["id"]
        found = await self.state(run_id)
        if found is None:
            # Its process has not created it yet, or died before that.
            await self.first(self.topic(run_id), entry.data["run"], "new")
            found = await self.state(run_id)
        return found

    # Deciding

    async def claim(
        self, found: RunState, worker: str, nonce: str, *, retry: bool = False
    ) -> str | None:
        """Claim a queued run for a worker. Returns the claim; None if another attempt has it.

        Arguments:
            nonce: of this attempt, because two deliveries to one process make the same claim.
            retry: whether another attempt may claim the run once this one is dead.
        """
        claim = f"{found.attempt + 1}-{worker}"
        await self.notify({"t": "claim", "id": found.id, "w": worker})
        data = {"t": "claim", "c": claim, "retry": retry, "nonce": nonce}
        record = await self.first(self.topic(found.id), data, f"claim:{found.attempt + 1}")
        return claim if record.data["nonce"] == nonce else None

    async def cancel(self, run_id: str) -> None:
        """Record that a run is to be cancelled, and notify its producer."""
        await self.first(self.topic(run_id), {"t": "cancel"}, "cancel")
        await self.notify({"t": "cancel", "id": run_id})

    async def release(self, found: RunState) -> None:
        """Release a run from the attempt that has it, so that another one can claim it."""
        claim, key = found.claim, f"release:{found.attempt}"
        await self.first(self.topic(found.id), {"t": "release", "c": claim}, key)
        await self.notify({"t": "release", "id": found.id, "c": claim, "by": worker_of(claim)})
        await self.list(await self.state(found.id) or found)

    async def end(
        self, run_id: str, state: State, *, result: Any = None, error: str | None = None
    ) -> RunState | None:
        """End a run, unless it has ended. Returns its new state; None if it was forgotten."""
        found = await self.state(run_id)
        if found is None:
            return None
        await self.decide(found, state, result=result, error=error)
        await self.announce([found])
        return found

    async def decide(
        self, found: RunState, state: State, *, result: Any = None, error: str | None = None
    ) -> None:
        """Append the end of a run, unless it has ended. Updates ``found``."""
        if not found.ended:
            data = {"t": "end", "state": state, "result": result, "error": error}
            found.apply(await self.first(self.topic(found.id), data, "end"))

    async def announce(self, found: Sequence[RunState]) -> None:
        """Notify all processes that runs have ended, and update their owners' lists."""
        await self.log.append(self.news, [{"t": "end", "id": one.id} for one in found])
        await self._update_lists(found, _shown)
        bounds = await asyncio.gather(*(self.log.bounds(self.topic(one.id)) for one in found))
        # A run that was forgotten meanwhile must not appear in the list again.
        gone = [one for one, its in zip(found, bounds, strict=True) if its.latest == START]
        await self._update_lists(gone, _gone)

    async def remove_remains(self, found: Sequence[RunState]) -> None:
        """Remove records that were appended to a run after another process had forgotten it."""
        first = await asyncio.gather(
            *(self.log.read(self.topic(one.id), START, 1) for one in found)
        )
        gone = [
            one
            for one, its in zip(found, first, strict=True)
            if its.records and its.records[0].data.get("t") != "run"
        ]
        if gone:
            await self.log.forget(*(self.topic(one.id) for one in gone))
            await self._update_lists(gone, _gone)

    async def first(self, topic: str, data: Mapping[str, Any], key: str) -> Record:
        """Append with a key. Returns the first record that was ever appended with this key."""
        records = await self.log.append(topic, data, key=key)
        while not records:
            # The engine remembers the key of a topic that was forgotten since.
            key += "+"
            records = await self.log.append(topic, data, key=key)
        return records[0]

    # Notifying

    async def notify(self, news: Mapping[str, Any]) -> None:
        """Append one record to ``news``, which each process follows.

        Its field ``t`` is ``new`` or ``claim`` (worker ``w`` may have the run ``id``), ``handed``
        or ``release`` (worker ``by`` no longer has it), ``cancel`` or ``end``.
        """
        await self.log.append(self.news, news)

    async def list(self, found: RunState) -> None:
        """Update a run in its owner's list."""
        await self._update_lists([found], _shown)

    async def _update_lists(
        self, found: Sequence[RunState], item_of: Callable[[RunState], Mapping[str, Any]]
    ) -> None:
        """Update runs in their owners' lists, each list with one append."""
        topics: dict[str, list[Mapping[str, Any]]] = {}
        for one in found:
            topics.setdefault(self.owners_topic(one.kind, one.owner), []).append(item_of(one))
        await asyncio.gather(*(self.log.append(topic, each) for topic, each in topics.items()))

    # Forgetting

    async def forget(self, found: Sequence[RunState]) -> None:
        """Remove runs that have ended."""
        topics = [self.topic(one.id) for one in found]
        for one in found:
            if one.group is not None:
                topic = self._groups_topic(one.kind, one.owner, one.group)
                last = await self._last(topic)
                if last is not None and last.data["id"] == one.id:
                    topics.append(topic)
        await self.log.forget(*topics)
        # Last: a process that ends a run lists it once more, and then checks that it still exists.
        await self._update_lists(found, _gone)

    async def trim_owner(self, kind: str, owner: str) -> None:
        """Remove old records of an owner's list that no page shows, or the list if it is empty."""
        topic = self.owners_topic(kind, owner)
        page = await KeyedTopic(self.log, topic, key="id").page(1_000_000)
        if page.changes:
            first = str(page.changes[0].place).partition(":")[0]
            await self.log.trim(topic, before=Offset.parse(first))
        else:
            await self.log.forget(topic)


def _shown(found: RunState) -> dict[str, Any]:
    """A run as an item of a list: without its result, which may be large."""
    return {**found.public(), "result": None}


def _gone(found: RunState) -> dict[str, Any]:
    """The record that removes a run from a list."""
    return {"id": found.id, "gone": True, "state": found.state, "group": found.group}
