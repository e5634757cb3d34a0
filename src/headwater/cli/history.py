"""The items of a feed from a moment on, by its REST half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from headwater.cli.filters import moment_of
from headwater.cli.remote import json_object, refusal
from headwater.errors import PeerError

if TYPE_CHECKING:
    import httpx

    from headwater.client import Snapshot

_PAGE = 100


def items_since(
    client: httpx.Client, url: str, moment: datetime
) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The first page's items that are not older than ``moment``, and the position after them.

    It goes back page by page until one begins before ``moment``. It keeps only that page, because
    the later items come again when the feed is followed from its position. Raises PeerError, and
    UsageError if items have no time.
    """
    page = _page(client, url, None)
    while page.items:
        dated = [(moment_of(item), item) for item in page.items]
        if dated[0][0] < moment or not page.has_more or page.start is None:
            return [item for at, item in dated if at >= moment], page.position
        page = _page(client, url, page.start)
    return [], page.position


def _page(client: httpx.Client, url: str, before: str | None) -> Snapshot[Mapping[str, Any]]:
    import httpx

    from headwater.client._address import shown, with_query
    from headwater.client._feed import read_snapshot
    from headwater.client._transport import cause_of

    asked = {"limit": str(_PAGE)} | ({} if before is None else {"before": before})
    try:
        answer = client.get(with_query(url, drop=["after", "wait", "lastEventId"], **asked))
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise PeerError(f"{shown(url)} cannot be reached: {cause_of(error)}") from error
    if not answer.is_success:
        raise refusal(answer)
    return read_snapshot(json_object(answer))
