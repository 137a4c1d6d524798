"""What views return: whole answers and streams, as Django responses without what they do not need.

Bodies are bytes already; a DRF `Response` would render in a thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

import orjson
from django.http import HttpResponse, StreamingHttpResponse

Headers = Iterable[tuple[str, str]]


class Answer(HttpResponse):
    """A whole answer."""

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Headers = (),
        content_type: str = "application/json",
    ) -> None:
        super().__init__(body, status=status, content_type=content_type)
        for name, value in headers:
            self.headers[name] = value


def json_answer(value: Any, *, status: int = 200, headers: Headers = ()) -> Answer:
    """A whole answer from plain values; money and dates become text."""
    return Answer(orjson.dumps(value, default=str), status=status, headers=headers)


class StreamAnswer(StreamingHttpResponse):
    """A stream whose first piece is known to be good. `pieces` is closed whatever happens."""

    def __init__(
        self,
        first: bytes,
        pieces: AsyncGenerator[bytes],
        *,
        headers: Headers = (),
        content_type: str = "text/event-stream",
        keepalive: bytes = b"",
    ) -> None:
        self.first = first
        self.pieces = pieces
        self.keepalive = keepalive
        super().__init__(self._all_pieces(), content_type=content_type)
        self.headers["Cache-Control"] = "no-cache"
        self.headers["X-Accel-Buffering"] = "no"  # or nginx collects the stream
        for name, value in headers:
            self.headers[name] = value

    async def _all_pieces(self) -> AsyncIterator[bytes]:
        try:
            yield self.first
            async for piece in self.pieces:
                yield piece
        finally:
            await self.pieces.aclose()
