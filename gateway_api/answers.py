"""What views return: whole answers and streams, as bytes and header pairs.

No Django responses: building one with a dozen headers and taking them out again cost 60 us a
request, a third of everything the gateway did. The lean handler, which serves these views, needs
none of what they carry (cookies, charsets, closers).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import orjson

Headers = Sequence[tuple[str, str]]
RawHeaders = list[tuple[bytes, bytes]]


def raw_headers(content_type: str, headers: Headers) -> RawHeaders:
    """Header pairs as ASGI wants them: lower-case names, latin-1."""
    raw = [(b"content-type", content_type.encode("latin-1"))]
    raw += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return raw


class Answer:
    """A whole answer. Header names are lower-case."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Headers = (),
        content_type: str = "application/json",
    ) -> None:
        self.body = body
        self.status = status
        self.headers = raw_headers(content_type, headers)


def json_answer(value: Any, *, status: int = 200, headers: Headers = ()) -> Answer:
    """A whole answer from plain values; money and dates become text."""
    return Answer(orjson.dumps(value, default=str), status=status, headers=headers)


class StreamAnswer:
    """A stream whose first piece is known to be good. `pieces` is closed whatever happens;
    `keepalive` is sent after a while of silence, when not empty. The last piece is `ending`, or
    what `failure` makes of the exception that ended `pieces`.

    `check` raises a GatewayError when the reader may not read any longer. `pieces` has to ask that
    itself; while it waits for the reader, `check` is asked every few seconds instead, and what it
    refuses is cut off.
    """

    __slots__ = ("check", "ending", "failure", "first", "headers", "keepalive", "pieces", "status")

    def __init__(
        self,
        first: bytes,
        pieces: AsyncGenerator[bytes],
        *,
        headers: Headers = (),
        content_type: str = "text/event-stream",
        keepalive: bytes = b"",
        ending: bytes = b"",
        failure: Callable[[Exception], bytes] | None = None,
        check: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.first = first
        self.pieces = pieces
        self.keepalive = keepalive
        self.ending = ending
        self.failure = failure
        self.check = check
        self.status = 200
        self.headers = raw_headers(content_type, headers)
        self.headers.append((b"cache-control", b"no-cache"))
        self.headers.append((b"x-accel-buffering", b"no"))  # or nginx collects the stream


AnyAnswer = Answer | StreamAnswer
