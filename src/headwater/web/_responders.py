"""What answers the requests of a route, whichever framework found it: feeds, and ``sse=``.

A framework hands over a ``Call``: the request, and a way to run the guards and the user's function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.exceptions import HTTPException

from headwater.web._identity import expiry, subjects
from headwater.web._live import Settings
from headwater.web._negotiation import (
    accepts_event_stream,
    asks_for_event_stream,
    not_acceptable,
)
from headwater.web._remembered_request import RECHECK, RememberedRequest
from headwater.web._rights import Holder, Verdict, verdict_of
from headwater.web._stream_limits import LimitReachedError, StreamPlace
from headwater.web._whole_responses import StreamRefusedError, answer_nobody
from headwater.web.asgi import (
    SSE,
    Connection,
    Receive,
    Scope,
    Send,
    Sending,
    made_stream,
    run_handler,
    send_head,
)
from headwater.web.problems import refused_problem

Handle = Callable[[Scope, Receive, Send], Awaitable[None]]

# Keys of the scope that a responder and its endpoint share.
STREAM = "headwater.stream"
# Called when the guards have let the caller pass and the handler begins.
BEGIN = "headwater.begin"
# The ``Planned`` that the framework's part leaves there.
PLAN = "headwater.plan"


@dataclass(frozen=True, slots=True)
class Planned:
    """The result of the user's function, after its dependencies were closed.

    Attributes:
        result: the source of a feed.
        dependency_headers: headers and cookies that dependencies have set.
        dependency_status: the status that one has set, for a page.
        background: runs once, after the response.
    """

    result: Any
    dependency_headers: Sequence[tuple[bytes, bytes]] = ()
    dependency_status: int | None = None
    background: Callable[[], Awaitable[None]] | None = None


class Recheck:
    """Checks the right of a request again, for as long as its stream lives.

    It holds nothing of the request's connection.

    Arguments:
        handle: runs the guards and the user's function, as ``Call.plan`` does; None if they cannot
            run again.
    """

    __slots__ = ("_handle", "remembered")

    def __init__(self, handle: Handle | None, scope: Scope, responder: Responder) -> None:
        self.remembered = RememberedRequest(scope, responder.common)
        self._handle = handle

    async def __call__(
        self, key: Callable[[Any], Hashable], expected: Hashable, otherwise: Verdict
    ) -> Verdict:
        """The verdict; ``otherwise`` if ``key`` of the function's result is not as expected."""
        if self._handle is None:
            return None
        try:
            status, scope = await self.remembered.run(self._handle)
        except HTTPException as error:
            return verdict_of(error.status_code)
        plan: Planned | None = scope.get(PLAN)
        if plan is None:
            return verdict_of(status or 500)
        same = plan.result is None or key(plan.result) == expected
        return None if same else otherwise


class Call(ABC):
    """One request on its way through a route.

    Attributes:
        live: what the routers of the event loop share.
        rechecks: as ``Rights.rechecks`` was before the guards ran.
        recheck: checks its right again; None unless it was remembered.
    """

    def __init__(self, responder: Responder, scope: Scope, receive: Receive, send: Sending) -> None:
        self.live = responder.settings.live()
        self.rechecks = self.live.rights.rechecks
        self.scope = scope
        self.receive = receive
        self.send = send
        self.recheck: Recheck | None = None
        self._responder = responder

    def remember(self) -> None:
        """Keep the request as it is now, before ``plan``, so that its right can be checked again.

        Only for a request that may stay open.
        """
        self.recheck = Recheck(self.again(), self.scope, self._responder)

    @abstractmethod
    def again(self) -> Handle | None:
        """What runs the guards and the user's function again, as ``plan``; None if nothing can."""

    @abstractmethod
    async def plan(
        self,
        receive: Receive | None = None,
        send: Send | None = None,
        *,
        errors: Sequence[dict[str, Any]] = (),
    ) -> Planned | None:
        """Run the guards and the function; None when the framework has answered by itself.

        Arguments:
            errors: what else is wrong with the request, in pydantic's form. Raised when the guards
                have let the caller pass, together with what the framework finds.
        """


class Responder(ABC):
    """What answers the requests of a route.

    Attributes:
        settings: of its router.
        common: kept for ``RememberedRequest``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.common: dict[str, Any] = {}

    def opens_stream(self, scope: Scope, /) -> bool:  # most routes open none
        """Whether the request is one that an EventSource may have made.

        Any status but 200 ends it for good, so what is only temporary is answered as a stream.
        """
        return False

    @abstractmethod
    async def serve(self, call: Call) -> Planned | None:
        """Answer the request. Errors before anything was sent are raised.

        Returns what ``call.plan`` returned, whose background is then to run.
        """


def take_place(call: Call) -> StreamPlace:
    """Take a place for a request. Raises LimitReachedError."""
    try:
        return call.live.places.take(subjects(call.scope), call.scope)
    except LimitReachedError:
        call.live.counters.limited += 1
        raise


class Admission:
    """The place and the right of one request. Made once its guards have let it pass.

    The call was remembered before that.

    Arguments:
        name: equal for requests of a route whose rights are the same question.
        result: the result of the user's function; ``key`` takes from it what must stay the same.
        otherwise: the verdict when that has changed.
    """

    def __init__(
        self,
        call: Call,
        name: Hashable,
        result: Any = None,
        key: Callable[[Any], Hashable] = lambda _: None,
        otherwise: Verdict = None,
    ) -> None:
        self.call = call
        self._name = name
        # It lives as long as the right, so it holds nothing of the request's connection.
        assert call.recheck is not None
        self._asked = call.recheck.remembered
        self._check = partial(call.recheck, key, key(result), otherwise)

    def hold(self, holder: Holder, place: StreamPlace) -> None:
        """Let a response go on only while its right holds."""
        call = self.call
        scope, asked = call.scope, self._asked
        call.live.rights.hold(
            holder,
            (self._name, asked.name),
            self._check,
            subjects(scope),
            call.rechecks,
            place,
            expiry(scope),
            asked,
        )


class EventResponder(Responder):
    """Answers the requests of a route with ``sse=``.

    Attributes:
        sse: how it streams.
    """

    def __init__(self, sse: SSE, settings: Settings) -> None:
        super().__init__(settings)
        self.sse = sse

    def opens_stream(self, scope: Scope, /) -> bool:
        """As Responder. A protocol with a farewell of its own has other clients."""
        return self.sse.kind != "manual" and self.sse.farewell is None and self._accepted(scope)

    def _accepted(self, scope: Scope) -> bool:
        asked = self.sse.kind == "dual"
        return asks_for_event_stream(scope) if asked else accepts_event_stream(scope)

    async def serve(self, call: Call) -> Planned | None:
        """Let the handler stream, or answer as a normal route where that is asked for."""
        live, scope, kind = call.live, call.scope, self.sse.kind
        streams = kind == "manual" or self._accepted(scope)
        is_head = scope["method"] == "HEAD" and kind != "manual"
        if kind == "dual":
            call.send.direct = _varying(call.send.direct)
        try:
            if streams and not is_head and not live.draining:
                return await self._stream(call)
            if streams or kind == "only":
                scope[RECHECK] = True
            plan = await call.plan()
            if plan is None:
                return None
            if not streams:
                raise not_acceptable(scope["path"], paired=False)
            live.refuse_while_draining()
        except StreamRefusedError as refused:
            if self.sse.farewell is None:
                raise
            raise refused_problem(refused, 503) from None
        await send_head(call.send, plan.dependency_headers)
        return plan

    async def _stream(self, call: Call) -> Planned | None:
        live, scope = call.live, call.scope
        call.remember()
        connection = Connection(scope, call.receive, call.send.direct)
        sse = self.sse
        stream = made_stream(connection, live.hub, sse, scope, live.heartbeat)
        scope[STREAM] = stream
        scope[BEGIN] = lambda: Admission(call, id(self)).hold(stream, take_place(call))

        async def send(message: MutableMapping[str, Any]) -> None:
            # FastAPI's own answer, unless the handler has begun to stream.
            if not stream.committed:
                await call.send(message)

        handle = partial(call.plan, connection.incoming.receive, send)
        plan: Planned | None = await run_handler(connection, stream, handle, sse)
        if stream.committed or not (plan is None or stream.ended):
            if not stream.committed:
                stream.close()
            await connection.hold(stream, stays=plan is not None and plan.background is not None)
        else:
            stream.release()
            if not call.send.begun:
                # It was not answered as a normal route either: its client has gone.
                await answer_nobody(call.send)
        return plan


def _varying(send: Send) -> Send:
    """Adds ``Vary: Accept``: a dual route answers differently by it."""

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"vary", b"Accept")]
        await send(message)

    return sending
