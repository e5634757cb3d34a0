"""When a client reconnects, and when it stops: a state machine without I/O and without a clock.

::

                 accepts() is True            received()
    [connecting] -----------------> [open] ---------------> [open, failures = 0]
        |   ^                         |
        |   | after Wait.seconds      | lost()
        |   +-------------------------+---> Wait
        |
        +-- refused(), lost(): Wait (failures + 1), or Stop

The standard says "wait a delay equal to the reconnection time" and "optionally, wait some more".
The reconnection time is the server's ``retry``. The "some more" is random, so that the clients of a
server that crashed do not all come back in the same instant, and its range doubles with every
failure up to a cap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from headwater.errors import HeadwaterError, ResponseError, SourceUnavailableError, UsageError

# The `retry` of a feed's stream. Browsers assume 3 to 5 s.
DEFAULT_RETRY = 2.0
# The first range of the random part. It is small, so that a healthy stream comes back soon.
DEFAULT_SPREAD = 0.5
# So a client finds a server that was away for an hour within half a minute.
DEFAULT_CAP = 30.0
# A longer `Retry-After` counts as a day: timers overflow, and servers are repaired.
MAX_RETRY_AFTER = 86_400.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Connect again after ``seconds``. ``cause`` says why, for people."""

    seconds: float
    cause: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Do not connect again. ``error`` is None when the server ended the stream in good order."""

    error: HeadwaterError | None


class Reconnect:
    """The state of one followed stream across its connections.

    ``random`` returns floats of 0 to 1. ``retry``, ``spread`` and ``cap`` are seconds. After
    ``give_up_after`` failures in a row, without an event in between, it stops; None never does.

    Attributes:
        last_event_id: the position to connect with; empty for none.
        retry: seconds that the server asked to wait.
        failures: attempts since the last event that brought no event.
    """

    def __init__(
        self,
        *,
        random: Callable[[], float],
        last_event_id: str = "",
        retry: float = DEFAULT_RETRY,
        spread: float = DEFAULT_SPREAD,
        cap: float = DEFAULT_CAP,
        give_up_after: int | None = None,
    ) -> None:
        if retry < 0 or spread < 0 or cap < 0:
            raise UsageError("retry, spread and cap are seconds, 0 or more")
        if give_up_after is not None and give_up_after < 1:
            raise UsageError(f"give_up_after={give_up_after}: at least 1 is needed")
        self.last_event_id = last_event_id
        self.retry = retry
        self.failures = 0
        self._random = random
        self._spread = spread
        self._cap = cap
        self._give_up_after = give_up_after
        self._progress = False

    def accepts(self, status: int, content_type: str) -> bool:
        """Whether an answer is an event stream. If not, ask ``refused`` what to do."""
        essence = content_type.partition(";")[0].strip().lower()
        return status == HTTPStatus.OK and essence == "text/event-stream"

    def refused(
        self,
        status: int,
        *,
        content_type: str = "",
        detail: str = "",
        retry_after: str | None = None,
        now: float = 0.0,
    ) -> Wait | Stop:
        """What to do after an answer that is no event stream.

        ``detail`` is what the server said; ``retry_after`` the raw header; ``now`` Unix seconds,
        needed for a ``Retry-After`` that is a date.
        """
        if status == HTTPStatus.NO_CONTENT:
            # "Clients will reconnect if the connection is closed; a client can be told to stop
            # reconnecting using the HTTP 204 No Content response code."
            return Stop(None)
        if status == HTTPStatus.OK:
            shown = content_type or "none"
            return Stop(ResponseError(status, f"content type {shown}, not text/event-stream"))
        error = ResponseError(status, detail or "no event stream")
        # The standard fails on all others. A server that is overloaded or restarting is no reason
        # to stop; a request that is wrong will be wrong again.
        if status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS) or status >= 500:
            asked = None
            if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                asked = _seconds(retry_after, now)
            return self._again(self.retry if asked is None else asked, str(error), error)
        return Stop(error)

    def lost(
        self, url: str, cause: str, *, retry_after: str | None = None, now: float = 0.0
    ) -> Wait | Stop:
        """What to do after a connection that broke, ended, or could not be made.

        A server that is only stopping answers 200 with a ``Retry-After`` and ends the body, since
        browsers never come back from another status. So the header counts for a stream too, unless
        events came: then it was for a wait that is over.
        """
        least = self.retry
        if not self._progress:
            # Such a stream has its own `retry` too, which spreads the clients: the longer counts.
            least = max(least, _seconds(retry_after, now) or 0.0)
        return self._again(least, cause, SourceUnavailableError(url, cause))

    def received(self) -> None:
        """An event arrived: the server works, so the back-off starts anew."""
        self.failures = 0
        self._progress = True

    def take_retry(self, milliseconds: int) -> None:
        """Take over the ``retry`` of a stream."""
        self.retry = milliseconds / 1000

    def _again(self, least: float, cause: str, error: HeadwaterError) -> Wait | Stop:
        if self._progress:
            # The end of a stream that brought events is no failure.
            self._progress = False
        else:
            self.failures += 1
        if self._give_up_after is not None and self.failures >= self._give_up_after:
            return Stop(error)
        # Full jitter: anywhere in the range. 2**30 s is beyond any cap, and no overflow.
        window = min(self._cap, self._spread * 2 ** min(self.failures, 30))
        return Wait(least + window * self._random(), cause)


def _seconds(retry_after: str | None, now: float) -> float | None:
    """Seconds of a ``Retry-After`` (RFC 9110, 10.2.3): a number or a date; None for neither."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        # Ten digits are more than the bound already, and Python refuses to read thousands.
        return min(float(text[:10]), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return min(max(0.0, moment.timestamp() - now), MAX_RETRY_AFTER)
    except (ValueError, TypeError, IndexError, OverflowError):
        # The parser raises all of these for one malformed date or another.
        return None
