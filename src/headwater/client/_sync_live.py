"""A feed in memory that a thread keeps up to date."""

from __future__ import annotations

import threading
from typing import Any, Generic, Self

from headwater.client._blocking import Feed
from headwater.client._held import NOT_FOLLOWED, Held, HeldItems, NewestItems
from headwater.client._values import T
from headwater.errors import PeerError, UsageError


class _Live(Held):
    """The thread that follows the feed, for as long as a ``with`` block runs."""

    def __init__(self, feed: Feed[Any], *held: Any) -> None:
        super().__init__(*held)
        self._feed = feed
        self._thread = threading.Thread(target=self._run, name="headwater feed", daemon=True)
        self._news = threading.Condition()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.close()
        self._thread.join()

    def changed(self, version: int = 0, timeout: float | None = None) -> int:
        """Wait until the content has another version than this one, and return that.

        After ``timeout`` seconds it returns the same version. Raises the error that ended the
        following, such as ResponseError.
        """
        if self._thread.ident is None:
            raise UsageError(NOT_FOLLOWED)
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
                    if self.apply(value):
                        with self._news:
                            self._version += 1
                            self._news.notify_all()
        except Exception as error:
            failure = error
        with self._news:
            self._failure = failure
            self._news.notify_all()


class LiveMap(_Live, HeldItems[T], Generic[T]):
    """The items of a keyed feed by their key, kept up to date: a read-only mapping for any thread.

    ``changed(version, timeout)`` waits for another version of the content and returns it.
    It raises the error that ended the following, such as ResponseError.

    Attributes:
        version: how often the content has changed; 0 before the first snapshot.
    """


class LiveList(_Live, NewestItems[T], Generic[T]):
    """The newest items of an append-only feed, oldest first, kept up to date, for any thread.

    ``changed(version, timeout)`` waits for another version of the content and returns it.
    It raises the error that ended the following, such as ResponseError.

    Attributes:
        version: how often the content has changed; 0 before the first snapshot.
    """
