"""Every error that Headwater raises on purpose.

    HeadwaterError
    ├── UsageError (ValueError)      the caller's fault; correct the code
    │   ├── FramingError             a value that would break the event stream's framing
    │   ├── DeclarationError         a feed, source or route that cannot work as declared
    │   │   └── FilterValueError     a value of where() that its column cannot have
    │   └── EncodingError            an item without the shape that its feed promises
    │       └── UnfitItemError       an item that stops its feed, because it does not fit the model
    ├── PeerError                    the other side's fault; the code is correct
    │   ├── PositionError            a position that cannot be resumed: answer with a reset
    │   ├── EventTooLargeError       an incoming event over the decoder's bound
    │   └── ResponseError            an HTTP answer that a client cannot follow
    ├── FeedTooLargeError            a feed with limit="all" that has more than max_items items
    ├── RunError                     the root of errors of runs
    │   ├── RunCancelled             the producer must stop: it was cancelled, or the run was lost
    │   ├── RunFailed                a producer raises it, with a sentence for clients
    │   └── RunClaimError            a run that cannot be claimed
    ├── SourceUnavailableError       a database or engine that does not answer now; try again later
    ├── RelayStoppedError            a relay that cannot continue at its place; a person must decide
    └── MissingExtraError (ImportError)   an optional dependency that is not installed

Facts are attributes. ``str()`` gives the sentence for people.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "DeclarationError",
    "EncodingError",
    "EventTooLargeError",
    "FeedTooLargeError",
    "FilterValueError",
    "FramingError",
    "HeadwaterError",
    "MissingExtraError",
    "PeerError",
    "PositionError",
    "RelayStoppedError",
    "ResetReason",
    "ResponseError",
    "RunCancelled",
    "RunClaimError",
    "RunError",
    "RunFailed",
    "SourceUnavailableError",
    "UnfitItemError",
    "UsageError",
]

ResetReason = Literal["expired", "unknown"]


class HeadwaterError(Exception):
    """The root of all errors of this package."""


class UsageError(HeadwaterError, ValueError):
    """The caller passed something that cannot work."""


class FramingError(UsageError):
    """A value that would break the event stream's framing.

    Attributes:
        field: the field of the event, such as ``"id"``.
        value: the refused value.
    """

    def __init__(self, field: str, value: object, problem: str) -> None:
        super().__init__(field, value, problem)
        self.field = field
        self.value = value
        self.problem = problem

    def __str__(self) -> str:
        shown = ascii(self.value)
        if len(shown) > 80:  # a long value would hide the sentence
            shown = shown[:77] + "..."
        return f"{self.field}={shown}: {self.problem}"


class DeclarationError(UsageError):
    """A feed, source or route that cannot work as it is declared."""


class FilterValueError(DeclarationError):
    """A value of ``where()`` that the column cannot have.

    A feed answers 422 if the value is one of the request's.

    Attributes:
        name: the attribute that was to be compared.
        value: the value.
        problem: what is wrong with it.
        parameter: the parameter of the feed's function that the value came from, if it is known.
    """

    def __init__(self, name: str, value: object, problem: str) -> None:
        super().__init__(name, value, problem)
        self.name = name
        self.value = value
        self.problem = problem
        self.parameter: str | None = None

    def __str__(self) -> str:
        return self.problem


class EncodingError(UsageError):
    """An item without the shape that its feed promises."""


class UnfitItemError(EncodingError):
    """An item that does not fit the model of its feed. The feed waits until it is corrected.

    Attributes:
        item: the item by its key or place, never by its values.
        problem: what is wrong, without its values.
        retry: milliseconds after which a client may ask again. They grow while the item stays.
    """

    def __init__(self, item: str, problem: str, retry: int) -> None:
        super().__init__(item, problem, retry)
        self.item = item
        self.problem = problem
        self.retry = retry

    def __str__(self) -> str:
        return f"{self.item} does not fit its model: {self.problem}"


class PeerError(HeadwaterError):
    """The other side sent something that cannot be used."""


class PositionError(PeerError):
    """A position that cannot be resumed.

    Attributes:
        position: the token as it arrived.
        reason: ``"unknown"`` (malformed, of another feed or epoch, from the future) or
            ``"expired"`` (older than retention). It is the ``reason`` of the ``reset`` event.
    """

    def __init__(self, position: str, reason: ResetReason, detail: str = "") -> None:
        super().__init__(position, reason, detail)
        self.position = position
        self.reason: ResetReason = reason
        self.detail = detail

    def __str__(self) -> str:
        shown = ascii(self.position[:80])
        why = (
            self.detail
            or {
                "expired": "it is older than what the feed keeps",
                "unknown": "it is not a position of this feed",
            }[self.reason]
        )
        return f"cannot resume at position {shown}: {why}"


class EventTooLargeError(PeerError):
    """An incoming event is larger than the decoder allows.

    Attributes:
        limit: the bound in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the stream holds an event of more than {self.limit} bytes"


class ResponseError(PeerError):
    """An HTTP answer that a client cannot follow.

    Attributes:
        status: the HTTP status code.
        detail: what the server said, or what was wrong with its answer.
        url: the address that was asked, without a password; empty if it is not known.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.url = ""

    def __str__(self) -> str:
        at = f" at {self.url}" if self.url else ""
        return f"HTTP {self.status}{at}: {self.detail}"


class FeedTooLargeError(HeadwaterError):
    """A feed that is declared with ``limit="all"`` has more items than it may send.

    Attributes:
        feed: the feed's name.
        most: how many items it may have.
    """

    def __init__(self, feed: str, most: int) -> None:
        super().__init__(feed, most)
        self.feed = feed
        self.most = most

    def __str__(self) -> str:
        return (
            f"feed {self.feed!r} has more than the {self.most} items that it sends at the start: "
            "ask for fewer by its parameters"
        )


class RunError(HeadwaterError):
    """The root of the errors of runs."""


class RunCancelled(RunError):  # noqa: N818 - nobody made an error
    """The producer of a run must stop: nothing more that it sends is stored.

    Attributes:
        run_id: the run.
        reason: ``"cancelled"`` if somebody cancelled it. ``"lost"`` if this process could not reach
            the event log for a lease, is being stopped, or the run was ended by another process.
    """

    def __init__(self, run_id: str, reason: Literal["cancelled", "lost"]) -> None:
        super().__init__(run_id, reason)
        self.run_id = run_id
        self.reason: Literal["cancelled", "lost"] = reason

    def __str__(self) -> str:
        why = {"cancelled": "was cancelled", "lost": "no longer belongs to this process"}[
            self.reason
        ]
        return f"run {self.run_id} {why}"


class RunFailed(RunError):  # noqa: N818 - a producer raises it on purpose
    """A producer raises it to end its run as ``failed``, with a sentence that clients may read."""


class RunClaimError(RunError):
    """A run that cannot be claimed.

    Attributes:
        run_id: the run.
        reason: ``"unknown"`` if there is no such run, or it was forgotten. ``"running"`` if another
            attempt has it. ``"ended"`` if it has ended.
    """

    def __init__(self, run_id: str, reason: Literal["unknown", "running", "ended"]) -> None:
        super().__init__(run_id, reason)
        self.run_id = run_id
        self.reason: Literal["unknown", "running", "ended"] = reason

    def __str__(self) -> str:
        why = {
            "unknown": "does not exist, or was forgotten",
            "running": "already has an active attempt",
            "ended": "has ended",
        }[self.reason]
        return f"run {self.run_id[:80]!a} {why}"


class SourceUnavailableError(HeadwaterError):
    """A source cannot be read at the moment. Streams stay open, and continue when it is back.

    Attributes:
        source: the name of the table, log or function.
        public: clients may read the detail too. Otherwise it may name a server or a user.
        lasting: whether it lasts until somebody corrects something. Then streams end, and their
            clients come back later.
    """

    def __init__(
        self, source: str, detail: str, *, public: bool = False, lasting: bool = False
    ) -> None:
        super().__init__(source, detail)
        self.source = source
        self.detail = detail
        self.public = public
        self.lasting = lasting

    @property
    def for_clients(self) -> str:
        """The sentence that clients may read."""
        return str(self) if self.public else f"{self.source} cannot be read just now"

    def __str__(self) -> str:
        return f"{self.source} cannot be read just now: {self.detail}"


class RelayStoppedError(HeadwaterError):
    """A relay cannot continue at its place, and ``on_reset=`` is ``"stop"``.

    Attributes:
        relay: the relay's name.
        detail: the reason: how the table or the event log has changed.
    """

    def __init__(self, relay: str, detail: str) -> None:
        super().__init__(relay, detail)
        self.relay = relay
        self.detail = detail

    def __str__(self) -> str:
        return (
            f"relay {self.relay!r} stopped: {self.detail}; start it with on_reset='repeat' (some "
            "events may then be in the log twice) or on_reset='skip' (some may then be missing)"
        )


class MissingExtraError(HeadwaterError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        extra: the extra that brings it, as in ``pip install "headwater[sql]"``.
    """

    def __init__(self, extra: str, module: str) -> None:
        super().__init__(extra, module)
        self.extra = extra
        self.module = module

    def __str__(self) -> str:
        return f'{self.module} is not installed: pip install "headwater[{self.extra}]"'
