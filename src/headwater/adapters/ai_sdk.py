"""Runs for ``useChat`` of Vercel's AI SDK, versions 6 and 7.

``respond`` sends a run as the stream that the SDK expects, always from its start, because the SDK
has no cursor. ``resume`` answers its request after a reload. ``send`` puts the chunks of a producer
that speaks the SDK's protocol, such as pydantic-ai, into a run.

The SDK treats the end of the body as the end of the answer. So every stream here ends with a chunk
that says how the answer ended: ``finish``, ``abort`` or ``error``.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterator, Mapping
from typing import Any

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
    raise MissingExtraError("ai-sdk", "starlette") from error

__all__ = ["CHUNK", "STREAM", "respond", "resume", "send"]

CHUNK = "chunk"
"""The name of a run's event whose data is a chunk of the SDK's protocol."""

_DONE = "[DONE]"
_LOST = "The server that worked on the answer has died. Ask again."
_FAILED = "The answer failed."


def _error(text: str) -> dict[str, Any]:
    return {"type": "error", "errorText": text}


STREAM = SSE(kind="manual", farewell=Event(data=_error(INTERRUPTED)))
"""For ``sse=`` of the routes that stream."""

# Chunks that a producer sends often, with their text member.
_JOINED = {"reasoning-delta": "delta", "tool-input-delta": "inputTextDelta"}


async def respond(stream: EventStream, runs: Runs, run_id: str) -> None:
    """Send a run from its start to its end.

    Text of ``run.delta`` becomes a text part. Chunks that ``send`` stored are sent as they are.
    Other events of the run become transient ``data-NAME`` chunks, which ``onData`` receives.
    ``cancelled`` becomes ``abort``; ``failed`` and ``lost`` become ``error``.

    Raises RunClaimError for an unknown run.
    """
    stream.headers = (*stream.headers, (b"x-vercel-ai-ui-message-stream", b"v1"))
    await _respond(stream, runs, run_id, _Message(run_id))


async def resume(
    stream: EventStream, runs: Runs, run: RunState | None, *, replay_for: float = 30.0
) -> Response:
    """Answer ``GET {api}/{chat}/stream``: the whole run while it is active, else 204.

    Return its result from the route's handler.

    Arguments:
        run: the run of the conversation, from ``runs.latest``.
        replay_for: seconds after its end in which a run is still sent. A client that lost its
            connection just before the end cannot name what it has, and after a 204 it would keep
            half an answer. The client replaces a message that it has, by the run's id.
    """
    if run is not None and not is_over(run, replay_for):
        await respond(stream, runs, run.id)
    # If the handler has streamed, this response is not used.
    return Response(status_code=204)


async def send(run: Run, chunks: AsyncIterable[Any]) -> None:
    """Put chunks of the SDK's protocol into a run.

    Arguments:
        chunks: mappings, or pydantic models such as pydantic-ai's. Its ``VercelAIAdapter`` makes
            them: ``await send(run, adapter.run_stream())``.

    Text becomes ``run.delta``, so that it is batched and every other client of the run gets it.
    Raises RunFailed for ``error`` and ``abort``, so that the run fails, and UsageError.
    """
    text: str | None = None
    async for chunk in joined(chunks, _JOINED):
        kind = chunk["type"]
        if kind == "text-delta" and set(chunk) == {"type", "id", "delta"} and chunk["id"] == text:
            await run.delta(chunk["delta"])
            continue
        if kind == "text-start":
            text = chunk.get("id")
        elif kind == "text-end":
            text = None
        elif kind == "error":
            raise RunFailed(str(chunk.get("errorText") or _FAILED))
        elif kind == "abort":
            raise RunFailed(str(chunk.get("reason") or _FAILED))
        if kind != "done":
            await run.send(CHUNK, chunk)


class _Message(Translation):
    """Makes chunks of one message from the events of a run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self._finish: Mapping[str, Any] = {"type": "finish"}

    def begin(self) -> Iterator[Frame]:
        yield {"type": "start", "messageId": self._run_id}

    def take(self, event: RunEvent) -> Iterator[Frame]:
        if event.name == CHUNK:
            yield from self._take_chunk(dict(event.data))
        elif event.name == "delta":
            if self._text is None:
                text = self._begin_text()
                self._open[text] = {"type": "text-end", "id": text}
                yield {"type": "text-start", "id": text}
            yield {"type": "text-delta", "id": self._text, "delta": event.data["text"]}
        else:
            yield {"type": f"data-{event.name}", "data": event.data, "transient": True}

    def _take_chunk(self, chunk: dict[str, Any]) -> Iterator[Frame]:
        kind, part = chunk.get("type"), chunk.get("id")
        if kind == "finish":
            # It is sent when the run has ended as `done`.
            self._finish = chunk
            return
        if kind == "start":
            # The message keeps its id in every replay.
            chunk.pop("messageId", None)
        if self._own:
            yield from self._close()
        if isinstance(part, str):
            if kind in ("text-start", "reasoning-start"):
                self._open[part] = {"type": kind.replace("start", "end"), "id": part}
            elif kind in ("text-end", "reasoning-end"):
                self._open.pop(part, None)
        if kind == "text-start":
            self._text = part
        elif kind == "text-end":
            self._text = None
        yield chunk

    def end(self, state: RunState) -> Iterator[Frame]:
        yield from self._close()
        if state.state == "done":
            yield self._finish
        elif state.state == "cancelled":
            yield {"type": "abort"}
        else:
            yield _error(_LOST if state.state == "lost" else state.error or _FAILED)
        yield _DONE

    def interrupt(self, reason: str) -> Iterator[Frame]:
        yield from self._close()
        yield _error(reason)
        yield _DONE
