"""uvicorn's reading of HTTP/1.1, without what it leaves open to strangers.

It waits for the end of a request's head for ever: connections that send a byte now and then fill a
worker's table of files. And it takes trailers, which come after a body, for headers: what a proxy
in front has checked or taken out would come in again behind it (RFC 9110, 6.5.1). Leans on
`HttpToolsProtocol` of uvicorn 0.54; tests/gateway_site/test_protocol.py fails when that changes.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT_S = 60.0
"""For the head of a request, and for the first byte of a connection."""


class GuardedProtocol(HttpToolsProtocol):
    _timer: asyncio.TimerHandle | None = None
    _in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self._timer is None:  # most heads come in one piece
            self._wait()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._wait_no_longer()
        super().on_headers_complete()
        self.headers = []  # for the trailers, which nobody reads

    def _wait(self) -> None:
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _wait_no_longer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
