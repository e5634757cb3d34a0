"""A feed's two halves on plain ASGI: what both answer, once a framework has found the source.

A framework's adapter runs guards and the feed's function, which give the source. Everything after
that stands here: pages, tags, long-polls and streams.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import ref

from headwater import errors
from headwater.delivery._feed_stream import TOO_LARGE, TOO_LARGE_RETRY, FeedStream, open_feed
from headwater.delivery._heartbeat import heartbeat_event
from headwater.errors import DeclarationError, PositionError, SourceUnavailableError
from headwater.feeds._checks import check_kind
from headwater.feeds._feed import Feed
from headwater.feeds._page_size import read_page
from headwater.feeds._source import Place, Source
from headwater.web._live import Settings
from headwater.web._negotiation import accepts_event_stream, not_acceptable
from headwater.web._paging import Paging, read_paging
from headwater.web._polls import WaitingRequest
from headwater.web._refused_values import refused_values
from headwater.web._responders import Admission, Call, Planned, Responder, take_place
from headwater.web._rights import CHANGED
from headwater.web._stream_limits import StreamPlace
from headwater.web._whole_responses import StreamRefusedError, answer_nobody, send_response
from headwater.web.asgi import Connection, Scope, last_event_id, send_head

# Answers whose tag is remembered, for each feed.
_REMEMBERED = 4096
# Milliseconds after which a stream's client comes back when the storage is away.
_STORAGE_RETRY = 2000


SOURCE_NEEDED = "return a Source, such as Table(...).where(...), log.topic(...) or Poll(...)(...)"
# A page's bytes and its tag.
_Answer = tuple[bytes, str]


@dataclass(frozen=True, slots=True, eq=False)
class FeedDeclaration:
    """What both halves of a feed have in common.

    Attributes:
        feed: names and encoding.
        item: the model of one item.
        keyed: items replace earlier ones with the same key, and can leave.
    """

    feed: Feed
    item: Any
    keyed: bool

    def __post_init__(self) -> None:
        said = f"feed {self.feed.name!r}: keyed={self.keyed!r}"
        check_kind(said, self.keyed, bool, "True or False")

    def accept(self, source: object) -> Source:
        """The source that a feed's function returned. Raises DeclarationError for anything else."""
        name = self.feed.name
        if not isinstance(source, Source):
            raise DeclarationError(
                f"feed {name!r}: its handler returned {type(source).__name__}; {SOURCE_NEEDED}"
            )
        if source.keyed and not self.keyed:
            raise DeclarationError(
                f"feed {name!r}: its source is keyed; declare it with feed(..., keyed=True)"
            )
        if self.feed.whole and (not source.keyed or source.nothing() is None):
            raise DeclarationError(
                f"feed {name!r}: limit='all' goes with a keyed source, such as a table with "
                "track(keyed=True), a LiveQuery or Poll(key=...); this one shows its newest items: "
                "give a number"
            )
        return source


def declared_feed(
    path: str,
    name: str | None,
    keyed: bool,
    item: tuple[Any, dict[str, Any]],
    paths: Collection[str],
    prefix: str = "",
    **options: Any,
) -> FeedDeclaration:
    """The declaration of a feed. Raises DeclarationError for what cannot work.

    Arguments:
        name: what positions are bound to; the whole path if it is None.
        item: the model of an item, and how the feed makes and encodes items.
        paths: those of the routes so far.
        options: the arguments of ``Feed`` that have the same names.
    """
    if not isinstance(path, str):
        raise DeclarationError(f"feed {path!r}: write a path such as '/logs'")
    whole = prefix + path
    if (path and not path.startswith("/")) or whole.endswith(("/", "/stream")) or not whole:
        raise DeclarationError(
            f"feed {path!r}: write a path such as '/logs', or '' on LiveRouter(prefix='/notes'); "
            "'/stream' is added by itself"
        )
    if whole + "/stream" in paths:
        raise DeclarationError(
            f"feed {whole!r} is declared twice on this router: give the second another path"
        )
    model, encoding = item
    return FeedDeclaration(Feed(name or whole, **encoding, **options), model, keyed)


class _Asked(NamedTuple):
    """One request for a feed, once its source is known and its dependencies are closed."""

    call: Call
    plan: Planned
    paging: Paging

    @property
    def source(self) -> Source:
        found: Source = self.plan.result
        return found

    def admission(self, half: FeedHalf) -> Admission:
        """The place and the right of a request that stays open, as streams and long-polls do."""
        name = (id(half), self.source.identity)
        return Admission(self.call, name, self.source, attrgetter("identity"), CHANGED)


class FeedHalf(Responder):
    """What both halves of a feed share.

    Attributes:
        declaration: the feed.
        streams: whether it is the half that streams.
        suffix: what its path has after that of the feed.
    """

    streams = False
    suffix = ""

    def __init__(self, declaration: FeedDeclaration, settings: Settings) -> None:
        super().__init__(settings)
        self.declaration = declaration

    def opens_stream(self, scope: Scope, /) -> bool:
        """As Responder."""
        return self.streams and accepts_event_stream(scope)

    async def serve(self, call: Call) -> Planned | None:
        """Find the source, then answer."""
        scope = call.scope
        limit = self.declaration.feed.page_limit
        paging = read_paging(scope.get("query_string", b""), limit, stream=self.streams)
        if self.streams or paging.wait:
            call.remember()
        with refused_values(scope):
            plan = await call.plan(errors=paging.errors)
        if plan is None:
            return None
        if self.streams and not self.opens_stream(scope):
            raise not_acceptable(scope["path"])
        with refused_values(scope):
            await self.answer(_Asked(call, plan, paging))
        return plan

    @abstractmethod
    async def answer(self, asked: _Asked) -> None:
        """Send the answer. Errors before anything was sent are raised."""

    async def _locate(self, source: Source, token: str) -> tuple[Place, str]:
        """The place of a token, and its epoch."""
        position = self.declaration.feed.parse(token)
        return await source.locate(position.epoch, position.place), position.epoch


class PageHalf(FeedHalf):
    """The REST half: ``GET /api/{resource}/{action}``."""

    def __init__(self, declaration: FeedDeclaration, settings: Settings) -> None:
        super().__init__(declaration, settings)
        self._tags: dict[Hashable, tuple[Hashable, str]] = {}

    async def answer(self, asked: _Asked) -> None:
        """Send the page. Raises PositionError and SourceUnavailableError before anything is sent.

        A request that waits is held to its right like a stream: it ends when that is lost.
        """
        source, paging = asked.source, asked.paging
        held = _if_none_match(asked.call.scope)
        body = b""
        revision: Hashable | None = None
        if held is not None and not paging.wait:
            # A client that polls has the answer already, most of the time.
            found = await source.revision()
            # An origin that was freed may leave its id, and so its identity, to another caller's.
            revision = None if found is None else (ref(source.origin), found)
        name = (source.identity, paging.limit, paging.after, paging.before)
        then, tag = self._tags.get(name, (None, ""))
        if revision is None or then != revision or not _matches(held, tag):
            answer = await self._read(asked)
            if answer is None:
                await answer_nobody(asked.call.send)
                return
            body, tag = answer
            if revision is not None:
                self._remember(name, revision, tag)
        given = [
            pair
            for pair in asked.plan.dependency_headers
            if pair[0] not in (b"etag", b"content-type")
        ]
        headers = [(b"etag", tag.encode()), *given]
        if all(name != b"cache-control" for name, _ in headers):
            # What a user may see is not for shared caches, and is out of date at once.
            headers.append((b"cache-control", b"private, no-cache"))
        head = asked.call.scope["method"] == "HEAD"
        if _matches(held, tag):
            await send_response(asked.call.send, 304, headers)
        else:
            headers.insert(0, (b"content-type", b"application/json"))
            status = asked.plan.dependency_status or 200
            await send_response(asked.call.send, status, headers, body, head=head)

    async def _read(self, asked: _Asked) -> _Answer | None:
        """The page that is asked for; None when the client has left."""
        source, paging = asked.source, asked.paging
        token = paging.after if paging.before is None else paging.before
        place, epoch = (None, None) if token is None else await self._locate(source, token)
        read = partial(self._page, asked, place, epoch)
        name = (self, source.identity, paging.after, paging.before, paging.limit)
        waits = paging.wait > 0 and paging.before is None
        if token is None or not waits:
            answer, holds = await asked.call.live.hub.pages.ask(name, read)
            if holds or not waits:
                return answer
        waiting = WaitingRequest(asked.admission(self))
        found: _Answer | None = await waiting.wait(name, source, read, paging.wait)
        return found

    async def _page(
        self, asked: _Asked, place: Place | None, epoch: str | None
    ) -> tuple[_Answer, bool]:
        """A page as it is sent, and whether it has changes.

        Arguments:
            place: that of ``after`` or ``before``, which has this epoch.
        """
        feed, source, paging = self.declaration.feed, asked.source, asked.paging
        hub = asked.call.live.hub
        before = None if paging.before is None else place
        after = place if paging.before is None else None
        removals = source.keyed and after is not None
        if place is None:
            after = feed.nothing(source)
        page = await read_page(
            feed, source, paging.limit, hub.page_bytes, after=after, before=before
        )
        if epoch not in (None, page.epoch):
            # The storage was replaced meanwhile.
            raise PositionError(paging.before or paging.after or "", "unknown")
        shown, left_out = feed.shown_page(page, removals=removals)
        hub.streams.counters.invalid_skipped += left_out
        body = feed.body(shown, removals=removals)
        # One position is that of different bodies: what callers may see differs, and may change.
        digest = hashlib.blake2s(body, digest_size=8).hexdigest()
        tag = f'"{feed.position(page.epoch, page.end)}.{digest}.{paging.limit}"'
        return (body, tag), bool(page.changes)

    def _remember(self, name: Hashable, revision: Hashable, tag: str) -> None:
        known = self._tags
        known.pop(name, None)
        known[name] = (revision, tag)
        if len(known) > _REMEMBERED:
            del known[next(iter(known))]


class StreamHalf(FeedHalf):
    """The SSE half: ``GET /api/{resource}/{action}/stream``."""

    streams = True
    suffix = "/stream"

    async def answer(self, asked: _Asked) -> None:
        """Open the stream and stay until it has ended or has taken its connection over."""
        call, plan = asked.call, asked.plan
        live = call.live
        live.refuse_while_draining()
        if call.scope["method"] == "HEAD":
            await send_head(call.send, plan.dependency_headers)
            return
        try:
            connection, stream = await self._open(asked)
        except SourceUnavailableError as error:
            raise StreamRefusedError(error.for_clients, _STORAGE_RETRY) from error
        except errors.UnfitItemError as error:
            live.counters.invalid_held += 1
            raise StreamRefusedError("an item cannot be shown", error.retry, 500) from error
        except errors.FeedTooLargeError as error:
            detail = str(error)
            raise StreamRefusedError(detail, TOO_LARGE_RETRY, TOO_LARGE, detail) from error
        await connection.hold(stream, stays=plan.background is not None)

    async def _open(self, asked: _Asked) -> tuple[Connection, FeedStream]:
        """Open the stream. Raises LimitReachedError and SourceUnavailableError."""
        admission = asked.admission(self)
        place = take_place(asked.call)
        try:
            return await self._begin(asked, admission, place)
        except BaseException:
            place.give_back()
            raise

    async def _begin(
        self, asked: _Asked, admission: Admission, place: StreamPlace
    ) -> tuple[Connection, FeedStream]:
        source, paging = asked.source, asked.paging
        resume = last_event_id(asked.call.scope) or paging.after
        before: Place | None = None
        if resume is None and paging.before is not None:
            try:
                before, _ = await self._locate(source, paging.before)
            except PositionError:
                # What cannot be resumed is answered in the stream, as for every other position.
                resume = paging.before
        call = asked.call
        live, hub = call.live, call.live.hub
        channel = await hub.hold(self.declaration.feed, source)
        try:
            opening = await open_feed(channel, limit=paging.limit, resume=resume, before=before)
            call.send.begun = True
            connection = Connection(call.scope, call.receive, call.send.direct, held=True)
            stream = FeedStream(
                connection.sender,
                hub.streams,
                channel,
                limit=paging.limit,
                heartbeat=live.heartbeat,
            )
            if paging.events:
                feed, interval = self.declaration.feed, live.heartbeat
                stream.pulse = heartbeat_event(feed.event, interval, feed.member)
            # Before its first bytes wait for the client: they count for its caller.
            admission.hold(stream, place)
            stream.begin(opening, asked.plan.dependency_headers)
        finally:
            hub.release(channel)
        return connection, stream


def _if_none_match(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name == b"if-none-match"]
    return b",".join(found).decode("latin-1") if found else None


def _matches(header: str | None, tag: str) -> bool:
    """RFC 9110, 13.1.2: weak comparison, a list or ``*``."""
    if header is None:
        return False
    known = [part.strip().removeprefix("W/") for part in header.split(",")]
    return tag in known or "*" in known
