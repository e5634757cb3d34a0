"""Sends requests until they are answered, so that each is carried out once."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from headwater.cli.remote import refusal, say
from headwater.errors import HeadwaterError, PeerError
from headwater.protocol import Reconnect, Stop, Wait

if TYPE_CHECKING:
    import httpx

# A server that is restarted is back in seconds.
_PAUSE = 0.5
_DONE_NOTHING = {425, 429, 503}
# A time-out, or a proxy that got no answer: the server may have carried the request out.
_MAYBE_DONE = {408, 502, 504}


class Poster:
    """Sends bodies to one address, each with an ``Idempotency-Key``.

    Where the server knows such keys, a request whose answer was lost is sent again. Elsewhere it is
    not, since it may have been carried out.
    """

    def __init__(
        self, client: httpx.Client, url: str, *, knows_keys: bool, give_up_after: int | None
    ) -> None:
        from headwater.client._address import shown

        self._client = client
        self._url = url
        self._shown = shown(url)
        self._knows_keys = knows_keys
        self._reconnect = Reconnect(random=random.random, retry=_PAUSE, give_up_after=give_up_after)
        self._reached = False

    def send(self, body: bytes, key: str) -> httpx.Response:
        """The answer, which is a success. Raises PeerError and ResponseError."""
        attempts = 0
        while True:
            decision = self._attempt(body, key)
            if not isinstance(decision, (Wait, Stop)):
                if attempts:
                    say(f"sent after {attempts} failed attempts")
                return decision
            if isinstance(decision, Stop):
                assert decision.error is not None
                raise decision.error
            attempts += 1
            say(f"{decision.cause}; sending again in {decision.seconds:.1f} s")
            time.sleep(decision.seconds)

    def _attempt(self, body: bytes, key: str) -> httpx.Response | Wait | Stop:
        import httpx

        from headwater.client._transport import CONNECT_FAULTS, cause_of

        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        try:
            answer = self._client.post(self._url, content=body, headers=headers)
        except HeadwaterError:
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if not self._reached:
                # Probably the address is wrong. A server that restarts was reached before.
                raise PeerError(f"{self._shown} cannot be reached: {cause_of(error)}") from error
            return self._reconnect.lost(self._shown, cause_of(error))
        except CONNECT_FAULTS as error:
            cause = cause_of(error)
            self._reached = True
            if not self._knows_keys:
                raise PeerError(
                    f"{self._shown}: {cause}; it is not known whether the last request was carried "
                    "out"
                ) from error
            return self._reconnect.lost(self._shown, cause)
        self._reached = True
        if answer.is_success:
            self._reconnect.received()
            return answer
        refused = refusal(answer)
        again = _DONE_NOTHING | _MAYBE_DONE if self._knows_keys else _DONE_NOTHING
        if answer.status_code not in again:
            raise refused
        return self._reconnect.refused(
            answer.status_code,
            detail=refused.detail,
            retry_after=answer.headers.get("retry-after"),
            now=time.time(),
        )
