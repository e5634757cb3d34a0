"""Runs: pieces of work whose output is a stream that outlives request, connection and worker."""

from headwater.errors import RunCancelled, RunClaimError, RunError, RunFailed
from headwater.runs._attempt import Run, SyncRun
from headwater.runs._records import RunEvent, RunState, State
from headwater.runs._runs import AttemptContext, Runs
from headwater.runs._store import Busy, BusyError, Created, KeyConflictError
from headwater.runs._tail import RunReader

__all__ = [
    "Runs",
    "Run",
    "SyncRun",
    "RunState",
    "RunEvent",
    "RunReader",
    "State",
    "Busy",
    "Created",
    "AttemptContext",
    "BusyError",
    "KeyConflictError",
    "RunCancelled",
    "RunClaimError",
    "RunError",
    "RunFailed",
]
