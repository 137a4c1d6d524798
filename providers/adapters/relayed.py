"""The answer to a relayed request: passed on as it comes, but for what is none and for our
credential."""

from __future__ import annotations

import orjson

from chat.errors import UpstreamError
from providers.adapters.base import Endpoint
from providers.adapters.credential import Cutter, without
from providers.adapters.openai_errors import error_in_band
from providers.http import HttpReply

HELD = 1 << 20
"""Bytes of JSON that are looked at before any is given away. An error is shorter."""


class RelayedReply:
    """An upstream's good answer without our credential, to be read and closed by one reader."""

    def __init__(self, reply: HttpReply, endpoint: Endpoint, *, begun: bytes = b"") -> None:
        self.status = reply.status
        told = (reply.headers.get("content-type") or "").encode()
        self.content_type = without(told, endpoint.api_key).decode()
        self.length = _length(reply)
        """Of the body as it was announced; None where it was not."""
        self._reply = reply
        self._begun = begun
        self._cutter: Cutter | None = Cutter(endpoint.api_key)

    async def next_bytes(self) -> bytes:
        """As HttpReply's, and raises the same."""
        while self._cutter is not None:
            piece, self._begun = self._begun or await self._reply.next_bytes(), b""
            if not piece:
                rest, self._cutter = self._cutter.end(), None
                return rest
            if piece := self._cutter.feed(piece):
                return piece
        return b""

    def close(self) -> None:
        self._reply.close()


async def begin(reply: HttpReply, endpoint: Endpoint, *, any_json: bool) -> RelayedReply:
    """The answer, once its beginning is known to tell no error; `any_json` where JSON is somebody's
    file and may say what it likes. Raises UpstreamError (M27)."""
    content_type = (reply.headers.get("content-type") or "").strip().lower()
    if any_json or not content_type.startswith("application/json"):
        return RelayedReply(reply, endpoint)
    begun = b""
    while len(begun) <= HELD and (piece := await reply.next_bytes()):
        begun += piece
    if (told := _error_told(begun, endpoint)) is not None:
        reply.close()
        raise told
    return RelayedReply(reply, endpoint, begun=begun)


def _error_told(body: bytes, endpoint: Endpoint) -> UpstreamError | None:
    if b'"error"' not in body or len(body) > HELD:
        return None
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    error = fields.get("error") if isinstance(fields, dict) else None
    return error_in_band(error, endpoint) if error else None


def _length(reply: HttpReply) -> int | None:
    told = reply.headers.get("content-length") or ""
    return int(told) if told.isdecimal() and len(told) < 20 else None
