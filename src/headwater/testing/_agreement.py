"""An assertion that the two halves of a feed show the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headwater.testing._client import LiveClient

_PAGE = 100
_ATTEMPTS = 5
_GONE = 410


async def assert_halves_agree(
    client: LiveClient,
    path: str,
    *,
    params: Mapping[str, Any] | None = None,
    limit: int = 20,
    most: int = 1000,
) -> None:
    """Raise AssertionError unless ``GET path`` and ``path/stream`` are two views of one feed.

    With the same parameters the snapshot must equal the page. From an earlier position both halves
    must give the same items in the same order. For an unknown position one must answer 410, and
    the other send ``reset``. It compares up to ``most`` items; the feed may be empty. If something
    is written to the feed meanwhile, it repeats only the first comparison.
    """
    asked = dict(params or {})
    page = await _same_page(client, path, {**asked, "limit": limit})
    back = page
    if page["has_more"] and page.get("start"):
        back = await _page(client, path, {**asked, "limit": limit, "before": page["start"]})
    await _same_rest(client, path, asked, back["position"], most)
    await _same_refusal(client, path, asked)


async def _same_page(client: LiveClient, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    for _ in range(_ATTEMPTS):
        async with client.stream(f"{path}/stream", params=asked) as stream:
            shown = (await stream.next("snapshot")).json()
        page = await _page(client, path, asked)
        if shown == page:
            return page
    raise AssertionError(f"the snapshot of {path} is not its page:\n{shown}\n{page}")


async def _same_rest(
    client: LiveClient, path: str, asked: dict[str, Any], position: str, most: int
) -> None:
    paged: list[tuple[str, Any]] = []
    after, more = position, True
    while more and len(paged) < most:
        page = await _page(client, path, {**asked, "limit": _PAGE, "after": after})
        paged += [("removed", key) for key in page.get("removed", ())]
        paged += [("item", item) for item in page[_collection(page)]]
        after, more = page["position"], page["has_more"]
    async with client.stream(f"{path}/stream", params=asked, last_event_id=position) as stream:
        messages = await stream.take(len(paged))
        if not more:
            await stream.quiet()
    streamed = [
        ("removed" if message.event.endswith("_removed") else "item", message.json())
        for message in messages
    ]
    # A page says first what left; a stream says it where it happened.
    for kind in ("item", "removed"):
        one = [value for name, value in paged if name == kind]
        other = [value for name, value in streamed if name == kind]
        if one != other:
            raise AssertionError(
                f"after {position} the halves of {path} differ:\npages: {one}\nstream: {other}"
            )


async def _same_refusal(client: LiveClient, path: str, asked: dict[str, Any]) -> None:
    answer = await client.get(path, params={**asked, "after": "unknown"})
    if answer.status_code != _GONE:
        raise AssertionError(f"{path} with an unknown position answered {answer.status_code}")
    async with client.stream(f"{path}/stream", params=asked, last_event_id="unknown") as stream:
        reset = (await stream.next("reset")).json()
        await stream.next("snapshot")
    if reset.get("reason") != answer.json().get("reason"):
        raise AssertionError(f"the halves of {path} refuse differently: {reset}, {answer.json()}")


async def _page(client: LiveClient, path: str, asked: dict[str, Any]) -> dict[str, Any]:
    answer = await client.get(path, params=asked)
    if answer.status_code != 200:
        raise AssertionError(f"{path} answered {answer.status_code}: {answer.text[:500]}")
    page: dict[str, Any] = answer.json()
    return page


def _collection(page: dict[str, Any]) -> str:
    lists = [name for name, value in page.items() if isinstance(value, list) and name != "removed"]
    return lists[0] if lists else "removed"
