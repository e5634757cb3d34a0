"""A feed held in memory and kept current by a thread."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Generic, Self

from headwater.client._blocking import Feed
from headwater.client._held import HeldItems, NewestItems
from headwater.client._values import FeedValue, T
from headwater.errors import PeerError

__all__ = ["LiveList", "LiveMap"]


class _Live:
    """The thread that follows the feed, for as long as a ``with`` block runs."""

    def __init__(self, feed: Feed[Any]) -> None:
        self._feed = feed
        self._thread = threading.Thread(target=self._run, name="headwater feed", daemon=True)
        self._version = 0
        self._news = threading.Condition()
        self._failure: Exception | None = None

    @abstractmethod
    def _apply(self, value: FeedValue[Any]) -> bool:
        """Take in a value of the feed; whether anything has changed."""

    @property
    def version(self) -> int:
        """How often the content has changed; 0 before the first snapshot."""
        return self._version

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._feed.close()
        self._thread.join()

    def changed(self, version: int = 0, timeout: float | None = None) -> int:
        """Wait until the content has another version than this one, and return that.

        After ``timeout`` seconds it is the same still. Raises what ended the following, such as
        ResponseError.
        """
        with self._news:
            self._news.wait_for(lambda: self._version != version or self._failure, timeout)
            if self._version == version and self._failure is not None:
                raise self._failure
            return self._version

    def _run(self) -> None:
        failure: Exception = PeerError("the feed has ended")
        try:
            with self._feed:
                for value in self._feed:
                    if self._apply(value):
                        with self._news:
                            self._version += 1
                            self._news.notify_all()
        except Exception as error:
            failure = error
        with self._news:
            self._failure = failure
            self._news.notify_all()


class LiveMap(_Live, HeldItems[T], Generic[T]):
    """The items of a keyed feed by their key, kept current: a mapping to read, in any thread.

    ``changed(version, timeout)`` waits for another version of the content and returns it.
    It raises what ended the following, such as ResponseError.

    Attributes:
        version: how often the content has changed; 0 before the first snapshot.
    """

    def __init__(
        self, feed: Feed[Any], key: str | Sequence[str], item: Any, max_items: int
    ) -> None:
        HeldItems.__init__(self, key, item, max_items)
        _Live.__init__(self, feed)

    _apply = HeldItems.apply


class LiveList(_Live, NewestItems[T], Generic[T]):
    """The newest items of an append-only feed, oldest first, kept current, for any thread.

    ``changed(version, timeout)`` waits for another version of the content and returns it.
    It raises what ended the following, such as ResponseError.

    Attributes:
        version: how often the content has changed; 0 before the first snapshot.
    """

    def __init__(self, feed: Feed[Any], keep: int, item: Any) -> None:
        NewestItems.__init__(self, keep, item)
        _Live.__init__(self, feed)

    _apply = NewestItems.apply
