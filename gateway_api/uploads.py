"""A caller's form on its way upstream: read as it comes, held only until its model is known."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Protocol

from django.conf import settings

from chat.errors import RequestTimeout, RequestTooLarge
from chat.forms import FormReader, boundary_of
from chat.relays import NEVER_FORWARDED

MAX_IN_MEMORY = 1 << 20
"""What stands in front of the model, a file perhaps, lies on the disk beyond this."""
MAX_DURATION_S = 3600.0
_STEP = 64 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9'+_.-]+")


class Body(Protocol):
    """A request whose body is read in pieces (`gateway_site.asgi_handler.LeanRequest`)."""

    async def next_piece(self) -> bytes: ...


class FormUpload:
    """One form (`chat.relays.Upload`). `close` it, whatever becomes of it."""

    def __init__(
        self, body: Body, *, content_type: str, content_length: str, has_model: bool
    ) -> None:
        boundary = boundary_of(content_type)
        quote = "" if _TOKEN.fullmatch(boundary) else '"'
        self.content_type = f"multipart/form-data; boundary={quote}{boundary}{quote}"
        self._body = body
        self._declared = int(content_length) if content_length.isdecimal() else None
        if self._declared is not None and self._declared > settings.MAX_UPLOAD_BYTES:
            raise _too_large()
        self._reader = FormReader(
            boundary, field="model" if has_model else None, forbidden=NEVER_FORWARDED
        )
        self._has_model = has_model
        self._received = 0
        self._due = time.monotonic() + MAX_DURATION_S
        self._ended = False
        self._held = SpooledTemporaryFile(max_size=MAX_IN_MEMORY)  # noqa: SIM115  # `close` ends it

    def close(self) -> None:
        self._held.close()

    async def find_model(self) -> str | None:
        """The form's field `model`; what was read to find it is held. Raises InvalidRequest,
        RequestTooLarge, RequestTimeout, and CancelledError when the caller leaves."""
        while self._has_model and self._reader.model is None and not self._ended:
            self._held.write(await self._next())
        return self._reader.model or None

    def length(self, model: str | None) -> int | None:
        if self._declared is None or self._reader.model is None:
            return self._declared
        old, new = self._reader.model, model or self._reader.model
        return self._declared - len(old.encode()) + len(new.encode())

    async def pieces(self, model: str | None) -> AsyncGenerator[bytes]:
        self._held.seek(0)
        if self._reader.model is not None and self._reader.model_at is not None:
            left = self._reader.model_at
            while left and (piece := self._held.read(min(left, _STEP))):
                left -= len(piece)
                yield piece
            yield (model or self._reader.model).encode()
        while piece := self._held.read(_STEP):
            yield piece
        while not self._ended:
            if piece := await self._next():
                yield piece

    async def _next(self) -> bytes:
        """What the next piece of the body lets pass."""
        patience_s = min(settings.BODY_TIMEOUT_S, self._due - time.monotonic())
        try:
            async with asyncio.timeout(patience_s):
                piece = await self._body.next_piece()
        except TimeoutError:
            raise RequestTimeout("The form came too slowly.") from None
        self._received += len(piece)
        if self._received > settings.MAX_UPLOAD_BYTES:
            raise _too_large()
        if piece:
            return self._reader.feed(piece)
        self._reader.finish()
        self._ended = True
        return b""


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"The form is larger than {settings.MAX_UPLOAD_BYTES // (1 << 20)} MiB.")
