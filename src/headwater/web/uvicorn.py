"""Headwater's own uvicorn protocol: ``uvicorn --http headwater.web.uvicorn:Protocol app:app``.

It offers the connection to streams, so that a peer which stopped reading can be dropped at once;
under any other server its connection ends when the server closes it.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headwater.web.asgi import TRANSPORT

__all__ = ["Protocol"]


class Protocol(HttpToolsProtocol):
    """uvicorn's httptools protocol, with the transport in the scope's extensions."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {TRANSPORT: self.transport}  # type: ignore[dict-item]
