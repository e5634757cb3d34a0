"""The answers of the routes of runs. They do not depend on the framework.

A framework finds the caller, the run's id and the parameters first, and passes them as ``Asked``.
"""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from headwater.errors import PositionError, ResetReason, SourceUnavailableError
from headwater.runs import BusyError, KeyConflictError, RunReader, RunState
from headwater.web._live import Live, Settings
from headwater.web._negotiation import (
    accepts_event_stream,
    asks_for_event_stream,
    not_acceptable,
)
from headwater.web._responders import Admission, Call, Planned, Responder, take_place
from headwater.web._run_requests import RunBody, key_of, parsed_json, storable
from headwater.web._run_setup import RunDeclaration
from headwater.web._run_stream import MOST_FOLDED, RETRY, RunStream, text_so_far, to_bytes
from headwater.web._stream_limits import LimitReachedError, StreamPlace
from headwater.web._whole_responses import Headers, StreamRefusedError, send_response
from headwater.web.asgi import Connection, Scope, last_event_id, send_head
from headwater.web.problems import Problem, refused_problem

logger = logging.getLogger("headwater.web")

_JSON = ((b"content-type", b"application/json"), (b"cache-control", b"private, no-cache"))


@dataclass(frozen=True, slots=True)
class Asked:
    """The values that an endpoint has found in the request.

    Attributes:
        owner: the id of the caller.
        run_id: the run in the path.
        fold: whether the client wants the output so far as one text.
        begin: to start a run in this process: the user's function with its parameters bound. It
            takes the run.
        input: to start a run by a queue: the value that the user's function returned.
    """

    owner: str
    run_id: str = ""
    fold: bool = False
    begin: Callable[[Any], Any] | None = None
    input: Any = None


class RunRoute(Responder):
    """The part that all routes of runs share.

    Attributes:
        name: of the route.
        method, suffix: its method, and what follows the path of the runs.
    """

    name: str
    method: str
    suffix = "/{run_id}"

    def __init__(self, declaration: RunDeclaration, settings: Settings) -> None:
        super().__init__(settings)
        self.declaration = declaration

    async def _find(self, call: Call, asked: Asked) -> RunState:
        """The run of the path. Raises 404 for one that is unknown, forgotten or another's."""
        found = await self.declaration.runs.state(asked.run_id)
        wanted = (self.declaration.kind_in(call.scope), asked.owner)
        if found is None or (found.kind, found.owner) != wanted:
            raise Problem(404, f"There is no run {asked.run_id[:80]!a}, or it is another's.")
        return found

    async def _stream(
        self,
        call: Call,
        plan: Planned,
        state: RunState,
        reader: RunReader,
        place: StreamPlace,
        *,
        reset: ResetReason | None = None,
        resumed: bool = False,
        headers: Headers = (),
    ) -> None:
        """Open a stream. Returns when it has ended, or has taken its connection over."""
        asked, live, runs = plan.result, call.live, self.declaration.runs
        admission = Admission(call, (id(self), state.id), asked, attrgetter("owner"), 403)
        call.send.begun = True
        connection = Connection(call.scope, call.receive, call.send.direct, held=True)
        stream = RunStream(connection.sender, live.hub.streams, heartbeat=live.heartbeat)

        async def restart() -> tuple[RunState, RunReader] | None:
            found = await runs.state(state.id)
            return None if found is None else (found, await runs.reader(state.id))

        head = (*plan.dependency_headers, *headers)
        admission.hold(stream, place)
        stream.begin(None if resumed else state, reset, head)
        if not stream.ended:
            self._count(live, stream, state.id)
            work = stream.follow(reader, state, fold=asked.fold, again=restart)
            pump = live.hub.streams.run(work, f"the stream of run {state.id}")
            stream.on_close(pump.cancel)
        await connection.hold(stream, stays=plan.background is not None)

    def _count(self, live: Live, stream: RunStream, run_id: str) -> None:
        own = self.declaration
        own.open[run_id] += 1

        def closed() -> None:
            own.open[run_id] -= 1
            if own.open[run_id]:
                return
            del own.open[run_id]
            if stream.left and own.on_disconnect == "cancel":
                live.hub.streams.run(own.runs.cancel(run_id), "cancelling a run whose client left")

        stream.on_close(closed)


class StartRoute(RunRoute):
    """``POST {path}``."""

    name, method, suffix = "start", "POST", ""

    async def serve(self, call: Call) -> Planned | None:
        """As ``responders.Responder``."""
        call.remember()
        body = RunBody(call.receive, self.declaration.max_body)
        key, errors = key_of(call.scope)
        plan = await call.plan(body.receive, errors=errors)
        if plan is None:
            return None
        if call.live.draining:
            raise SourceUnavailableError("runs", "this server is being stopped", public=True)
        place = None
        if asks_for_event_stream(call.scope):
            # Before the run is created: its client would not know of it.
            try:
                place = take_place(call)
            except LimitReachedError as error:
                raise refused_problem(error, 429) from error
        try:
            state = await self._create(call, plan, await body.whole(), key)
            reader = await self.declaration.runs.reader(state.id) if place else None
        except BaseException:
            if place is not None:
                place.give_back()
            raise
        headers = [(b"location", f"{call.scope['path'].rstrip('/')}/{state.id}".encode())]
        if place is not None and reader is not None:
            await self._stream(call, plan, state, reader, place, headers=headers)
        else:
            await _send_json(call, plan, 202, state.public(), headers)
        return plan

    async def _create(self, call: Call, plan: Planned, body: bytes, key: str | None) -> RunState:
        own, asked = self.declaration, plan.result
        parsed = parsed_json(body, call.scope)
        given = storable(parsed, own.runs.log) if asked.input is None else asked.input
        group = self._group_in(parsed)
        query = call.scope.get("query_string", b"")
        hashed = hashlib.sha256(query + b"\0" + body).hexdigest()
        try:
            created = await own.runs.create(
                own.kind_in(call.scope),
                asked.owner,
                input=given,
                group=group,
                busy=own.busy,
                key=key,
                hashed=hashed,
                handler=asked.begin,
                start=own.start,
            )
        except KeyConflictError:
            raise Problem(
                422,
                "This Idempotency-Key was used for another body: choose a new key for a new "
                "request.",
            ) from None
        except BusyError as error:
            active = await own.runs.state(error.active)
            raise Problem(
                409,
                f"The {own.group} {group!r} has an active run: wait for its end, or cancel it.",
                title="An active run",
                run={"id": error.active} if active is None else active.public(),
            ) from None
        return created.state

    def _group_in(self, parsed: Any) -> str | None:
        name = self.declaration.group
        if name is None or not isinstance(parsed, dict):
            return None
        value = parsed.get(name)
        if value is None:
            return None
        if not isinstance(value, (str, int)) or isinstance(value, bool) or len(str(value)) > 200:
            raise Problem(
                422, f"{name}: this field must be a text of at most 200 characters, or a number."
            )
        return str(storable(value, self.declaration.runs.log))


class _KnownRoute(RunRoute):
    """A route of an existing run."""

    async def serve(self, call: Call) -> Planned | None:
        """Let the framework run the guards and the endpoint, then answer."""
        call.remember()
        plan = await call.plan()
        if plan is not None:
            await self.answer(call, plan)
        return plan

    @abstractmethod
    async def answer(self, call: Call, plan: Planned) -> None:
        """Send the answer. Errors before anything was sent are raised."""


class StateRoute(_KnownRoute):
    """``GET {path}/{id}``."""

    name, method = "state", "GET"

    async def answer(self, call: Call, plan: Planned) -> None:
        found = await self._find(call, plan.result)
        shown = found.public()
        if plan.result.fold:
            shown["text"] = await text_so_far(await self.declaration.runs.reader(found.id))
        if plan.result.fold and shown["text"] is None:
            raise Problem(
                422,
                f"fold=true: the output has more than {MOST_FOLDED} characters: follow its stream.",
            )
        await _send_json(call, plan, 200, shown)


class CancelRoute(_KnownRoute):
    """``POST {path}/{id}/cancel``."""

    name, method, suffix = "cancel", "POST", "/{run_id}/cancel"

    async def answer(self, call: Call, plan: Planned) -> None:
        found = await self._find(call, plan.result)
        was_over = found.ended
        if not was_over:
            await self.declaration.runs.cancel(found.id)
            found = await self.declaration.runs.state(found.id) or found
        await _send_json(call, plan, 200 if was_over else 202, found.public())


class DeleteRoute(_KnownRoute):
    """``DELETE {path}/{id}``."""

    name, method = "delete", "DELETE"

    async def answer(self, call: Call, plan: Planned) -> None:
        found = await self._find(call, plan.result)
        if not await self.declaration.runs.forget(found.id):
            raise Problem(409, "The run has not ended: cancel it first.", run=found.public())
        await send_response(call.send, 204, plan.dependency_headers)


class StreamRoute(_KnownRoute):
    """``GET {path}/{id}/stream``."""

    name, method, suffix = "stream", "GET", "/{run_id}/stream"

    def opens_stream(self, scope: Scope, /) -> bool:
        """As Responder."""
        return accepts_event_stream(scope)

    async def answer(self, call: Call, plan: Planned) -> None:
        scope = call.scope
        if not self.opens_stream(scope):
            raise not_acceptable(scope["path"])
        call.live.refuse_while_draining()
        try:
            state = await self._find(call, plan.result)
            resume = last_event_id(scope)
            reader, reset = await self._reader(state, resume)
        except SourceUnavailableError as error:
            raise StreamRefusedError(error.for_clients, RETRY) from error
        if reader.has_ended:
            # A browser's EventSource reconnects after the end. A 204 stops it.
            await send_response(call.send, 204, plan.dependency_headers)
        elif scope["method"] == "HEAD":
            await send_head(call.send, plan.dependency_headers)
        else:
            place = take_place(call)
            resumed = resume is not None and reset is None
            await self._stream(call, plan, state, reader, place, reset=reset, resumed=resumed)

    async def _reader(
        self, state: RunState, resume: str | None
    ) -> tuple[RunReader, ResetReason | None]:
        runs = self.declaration.runs
        try:
            return await runs.reader(state.id, after=resume), None
        except PositionError as error:
            return await runs.reader(state.id), error.reason


ROUTES = (StartRoute, StateRoute, StreamRoute, CancelRoute, DeleteRoute)


async def _send_json(
    call: Call, plan: Planned, status: int, value: Any, headers: Headers = ()
) -> None:
    head = call.scope["method"] == "HEAD"
    headers = [*headers, *_JSON, *plan.dependency_headers]
    await send_response(call.send, status, headers, to_bytes(value), head=head)
