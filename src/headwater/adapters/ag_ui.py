"""Runs for clients of AG-UI, such as ``HttpAgent`` of npm's ``@ag-ui/client``.

``respond`` sends a run as events of AG-UI, always from ``RUN_STARTED``, because the protocol has no
cursor. ``resume`` does so for a client that comes back. ``send`` puts the events of a producer that
speaks AG-UI, such as pydantic-ai, into a run.

A client treats the end of the body as the end of the run. So every stream here ends with an event
that says how the run ended: ``RUN_FINISHED`` or ``RUN_ERROR``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from headwater.adapters._joined import joined
from headwater.adapters._translation import INTERRUPTED, Frame, Translation, is_over
from headwater.adapters._translation import respond as _respond
from headwater.delivery._event_stream import EventStream
from headwater.errors import MissingExtraError, RunFailed
from headwater.protocol import Event
from headwater.runs import Run, RunEvent, Runs, RunState
from headwater.web.asgi import SSE

try:
    from starlette.responses import Response
except ImportError as error:  # pragma: no cover - only without the extra
    raise MissingExtraError("ag-ui", "starlette") from error

__all__ = ["EVENT", "STREAM", "Request", "respond", "resume", "send"]

EVENT = "ag-ui"
"""The name of a run's event whose data is an event of AG-UI."""

_LOST = "The server that worked on the run has died. Start it again."
_FAILED = "The run failed."


def _error(message: str, code: str) -> dict[str, Any]:
    return {"type": "RUN_ERROR", "message": message, "code": code}


STREAM = SSE(kind="manual", farewell=Event(data=_error(INTERRUPTED, "interrupted")))
"""For ``sse=`` of the routes that stream."""

# Events that open a part, with the member that names the part and the event that closes it.
_PARTS = {
    "TEXT_MESSAGE_START": ("messageId", "TEXT_MESSAGE_END"),
    "REASONING_START": ("messageId", "REASONING_END"),
    "REASONING_MESSAGE_START": ("messageId", "REASONING_MESSAGE_END"),
    "TOOL_CALL_START": ("toolCallId", "TOOL_CALL_END"),
    "STEP_STARTED": ("stepName", "STEP_FINISHED"),
}
_CLOSES = {end: member for member, end in _PARTS.values()}

# Events that a producer sends often, with their text member. Text messages go by ``run.delta``.
_JOINED = dict.fromkeys(
    (
        *("REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_CHUNK"),
        *("TOOL_CALL_ARGS", "TOOL_CALL_CHUNK"),
    ),
    "delta",
)

# Events that may come between the chunks of one message.
_BESIDE = {"RAW", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA", "REASONING_ENCRYPTED_VALUE"}


class Request(Protocol):
    """The members of a request that are used here. AG-UI's ``RunAgentInput`` has them."""

    @property
    def thread_id(self) -> str: ...

    @property
    def run_id(self) -> str: ...

    @property
    def messages(self) -> Sequence[Any]: ...


async def respond(stream: EventStream, runs: Runs, run_id: str, request: Request) -> None:
    """Send a run from its start to its end.

    Text of ``run.delta`` becomes a text message. Events that ``send`` stored are sent as they are.
    Other events of the run become ``CUSTOM``. ``done`` becomes ``RUN_FINISHED`` with the result,
    ``cancelled`` the same with that outcome, ``failed`` and ``lost`` become ``RUN_ERROR`` with that
    code.

    Arguments:
        request: names the thread and the run in the events.

    Raises RunClaimError for an unknown run.
    """
    translation = _Events(run_id, request.thread_id, request.run_id)
    await _respond(stream, runs, run_id, translation)


async def resume(
    stream: EventStream,
    runs: Runs,
    run: RunState | None,
    request: Request,
    *,
    replay_for: float = 30.0,
) -> Response:
    """Answer a client that comes back: the whole run while it is active, else 204.

    Return its result from the route's handler. Before the run's events the client gets the messages
    and the state that the run was started with, so that it shows no part twice. For that, create
    the run with the request as its input:
    ``input=request.model_dump(mode="json", by_alias=True, exclude_none=True)``.

    Arguments:
        run: the run of the conversation, from ``runs.latest``.
        replay_for: seconds after its end in which a run is still sent, because a client that lost
            its connection just before the end cannot name what it has.
    """
    if run is not None and not is_over(run, replay_for):
        translation = _Events(run.id, request.thread_id, request.run_id)
        translation.before = [*_start_of(run.input, request)]
        await _respond(stream, runs, run.id, translation)
    # If the handler has streamed, this response is not used.
    return Response(status_code=204)


async def send(run: Run, events: AsyncIterable[Any]) -> None:
    """Put events of AG-UI into a run.

    Arguments:
        events: mappings, or pydantic models such as those of ``ag-ui-protocol`` and pydantic-ai.
            Its ``AGUIAdapter`` makes them: ``await send(run, adapter.run_stream())``.

    Text becomes ``run.delta``, so that every other client of the run gets it. Raises RunFailed for
    ``RUN_ERROR``, so that the run fails, and UsageError.
    """
    text: str | None = None
    async for event in _without_chunks(joined(events, _JOINED)):
        kind = event["type"]
        delta = event.get("delta") if kind == "TEXT_MESSAGE_CONTENT" else None
        if isinstance(delta, str) and text is not None and event.get("messageId") == text:
            await run.delta(delta)
            continue
        if kind == "TEXT_MESSAGE_START":
            # Another message may be open: deltas belong to the latest.
            text = event.get("messageId")
        elif kind == "TEXT_MESSAGE_END":
            text = None
        elif kind == "RUN_ERROR":
            raise RunFailed(str(event.get("message") or _FAILED))
        elif kind == "RUN_FINISHED":
            await run.result(event.get("result"))
        if kind != "RUN_STARTED":
            await run.send(EVENT, event)


async def _without_chunks(events: AsyncIterable[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """The events, with a start and an end of each text message that comes as chunks."""
    message: str | None = None
    async for event in events:
        is_chunk = event["type"] == "TEXT_MESSAGE_CHUNK"
        named = event.get("messageId", message) if is_chunk else None
        if message is not None and message != named and event["type"] not in _BESIDE:
            yield {"type": "TEXT_MESSAGE_END", "messageId": message}
            message = None
        if named is None:
            yield event
            continue
        both = {**event, "messageId": named}
        delta = both.pop("delta", None)
        if message is None:
            message = named
            yield {"role": "assistant", **both, "type": "TEXT_MESSAGE_START"}
        if delta:
            yield {**both, "type": "TEXT_MESSAGE_CONTENT", "delta": delta}
    if message is not None:
        yield {"type": "TEXT_MESSAGE_END", "messageId": message}


def _start_of(given: Any, request: Request) -> Iterator[Frame]:
    """Events that reset a client to the state in which the run began."""
    if not isinstance(given, Mapping):
        return
    if isinstance(given.get("messages"), list):
        # The client keeps reasoning that a snapshot does not name, and would append to it.
        old = {message.get("id") for message in given["messages"]}
        reasoning = [
            {"id": message.id, "role": "reasoning", "content": ""}
            for message in request.messages
            if getattr(message, "role", None) == "reasoning" and message.id not in old
        ]
        yield {"type": "MESSAGES_SNAPSHOT", "messages": [*given["messages"], *reasoning]}
    if given.get("state") is not None:
        yield {"type": "STATE_SNAPSHOT", "snapshot": given["state"]}


class _Events(Translation):
    """Makes events of AG-UI from those of a run.

    Attributes:
        before: events to send right after ``RUN_STARTED``.
    """

    def __init__(self, own_id: str, thread_id: str, run_id: str) -> None:
        super().__init__(own_id)
        self._names = {"threadId": thread_id, "runId": run_id}
        self.before: Sequence[Frame] = ()
        self._finish: Mapping[str, Any] = {}

    def begin(self) -> Iterator[Frame]:
        yield {"type": "RUN_STARTED", **self._names}
        yield from self.before

    def take(self, event: RunEvent) -> Iterator[Frame]:
        if event.name == EVENT:
            yield from self._take_event(event.data)
        elif event.name == "delta":
            if self._text is None:
                part = self._begin_text()
                end = {"type": "TEXT_MESSAGE_END", "messageId": part}
                self._open["TEXT_MESSAGE_END", part] = end
                yield {"type": "TEXT_MESSAGE_START", "messageId": part, "role": "assistant"}
            text = event.data["text"]
            yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": self._text, "delta": text}
        else:
            yield {"type": "CUSTOM", "name": event.name, "value": event.data}

    def _take_event(self, event: Mapping[str, Any]) -> Iterator[Frame]:
        kind = str(event.get("type"))
        if kind == "RUN_FINISHED":
            # It is sent when the run has ended as `done`: its outcome may be an interrupt.
            self._finish = event
            return
        if self._own:
            yield from self._close()
        if kind in _PARTS:
            member, end = _PARTS[kind]
            part = str(event.get(member))
            self._open[end, part] = {"type": end, member: part}
        elif kind in _CLOSES:
            self._open.pop((kind, str(event.get(_CLOSES[kind]))), None)
        if kind == "TEXT_MESSAGE_START":
            self._text = event.get("messageId")
        elif kind == "TEXT_MESSAGE_END":
            self._text = None
        yield event

    def end(self, state: RunState) -> Iterator[Frame]:
        # The client refuses the end of a run with open parts.
        yield from self._close()
        if state.state == "done":
            result = {} if state.result is None else {"result": state.result}
            yield {**self._finish, "type": "RUN_FINISHED", **self._names, **result}
        elif state.state == "cancelled":
            yield {"type": "RUN_FINISHED", **self._names, "outcome": {"type": "cancelled"}}
        else:
            message = _LOST if state.state == "lost" else state.error or _FAILED
            yield _error(message, state.state)

    def interrupt(self, reason: str) -> Iterator[Frame]:
        yield from self._close()
        yield _error(reason, "interrupted")
