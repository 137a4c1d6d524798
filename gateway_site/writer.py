"""Puts an answer on its connection: through ASGI's `send`, or in fewer steps under uvicorn.

uvicorn writes the head and the body of an answer apart, a system call each, and holds two patterns
against every header: with the eighteen headers of ours that was a sixth of a request's CPU. So the
writer speaks to uvicorn's connection itself where it finds one whose state it knows. It leans on
`RequestResponseCycle` of uvicorn 0.54 (httptools); tests/gateway_site/test_writer.py fails when
that changes.

daphne's `send` returns at once whether the caller reads or not. Its requests are Twisted's, which
tell who registers as their producer when to pause: a stream waits then.

Neither server ever gives a stream up whose reader takes nothing, and closing its connection would
wait for the reader too. The kernel is asked to break it after STUCK_S; `cut` breaks it now.

Whatever looks otherwise is served through `send`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway_api.answers import RawHeaders

Message = Mapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

STUCK_S = 60
"""A stream whose reader's machine takes nothing for so long is over (where the system can tell:
Linux). Reading slowly is no reason: it counts from the last byte that was taken."""

_ILLEGAL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""No header value may hold these: the last guard against a response that a caller splits."""


class Writer:
    """Writes one answer through ASGI. `whole`, or `begin`, `piece` as often as wanted, and `end`;
    the `first` piece and the `last` may be empty."""

    __slots__ = ("_send",)

    def __init__(self, send: Send) -> None:
        self._send = send

    def plain(self) -> Writer:
        """The same through ASGI, for an answer that is not to keep its connection."""
        return self

    async def whole(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """A whole answer. `headers` hold its `content-length`."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, headers: RawHeaders, first: bytes) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if first:
            await self.piece(first)

    async def piece(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, last: bytes) -> None:
        await self._send({"type": "http.response.body", "body": last})

    def leave(self) -> None:
        """Whatever became of a stream, nothing of it is written any more."""

    @property
    def is_held_up(self) -> bool:
        """Whether a stream waits for its reader to take something."""
        return False

    def cut(self) -> None:
        """Breaks a stream's connection, whatever is still to be read of it."""


class _DaphneWriter(Writer):
    """Waits while Twisted's buffer is full. It is the request's producer from the beginning of a
    stream on, and must not be when the request ends."""

    __slots__ = ("_is_free", "_request")

    def __init__(self, send: Send, request: Any) -> None:
        super().__init__(send)
        self._request = request
        self._is_free = asyncio.Event()
        self._is_free.set()

    async def begin(self, status: int, headers: RawHeaders, first: bytes) -> None:
        if self._request.channel is not None:  # else the caller has left
            self._request.registerProducer(self, True)
            _break_when_stuck(self._request.channel.transport.getHandle())
        await super().begin(status, headers, first)

    async def piece(self, body: bytes) -> None:
        await self._is_free.wait()
        await super().piece(body)

    async def end(self, last: bytes) -> None:
        await self._is_free.wait()
        self.leave()
        await super().end(last)

    def leave(self) -> None:
        if self._request.producer is self and self._request.channel is not None:
            self._request.unregisterProducer()

    @property
    def is_held_up(self) -> bool:
        return not self._is_free.is_set()

    def cut(self) -> None:
        if self._request.channel is not None:
            self._request.channel.transport.abortConnection()

    # What Twisted calls its producer, of which it asks no more (IPushProducer).

    def pauseProducing(self) -> None:
        self._is_free.clear()

    def resumeProducing(self) -> None:
        self._is_free.set()

    stopProducing = resumeProducing


class _UvicornWriter(Writer):
    """Writes on uvicorn's transport; leaves its cycle as its own `send` would."""

    __slots__ = ("_cycle",)

    def __init__(self, send: Send, cycle: RequestResponseCycle) -> None:
        super().__init__(send)
        self._cycle = cycle

    def plain(self) -> Writer:
        return Writer(self._send)

    async def whole(self, status: int, headers: RawHeaders, body: bytes) -> None:
        cycle = self._cycle
        if not _may_begin(cycle):
            await super().whole(status, headers, body)
            return
        cycle.response_started = True
        cycle.chunked_encoding = False
        cycle.transport.write(_head(status, cycle, headers, b"\r\n") + body)
        _complete(cycle)

    async def begin(self, status: int, headers: RawHeaders, first: bytes) -> None:
        cycle = self._cycle
        _break_when_stuck(cycle.transport.get_extra_info("socket"))
        if cycle.scope["http_version"] == "1.0":
            # Who speaks that knows no chunks, which uvicorn would make: the stream ends with its
            # connection.
            cycle.chunked_encoding, cycle.expected_content_length = False, sys.maxsize
        if not _may_begin(cycle):
            await super().begin(status, headers, first)
            return
        cycle.response_started = cycle.chunked_encoding = True
        head = _head(status, cycle, headers, b"transfer-encoding: chunked\r\n\r\n")
        cycle.transport.write(head + _chunk(first))

    async def piece(self, body: bytes) -> None:
        cycle = self._cycle
        if _may_go_on(cycle):
            cycle.transport.write(_chunk(body))
        else:
            await super().piece(body)

    async def end(self, last: bytes) -> None:
        cycle = self._cycle
        if _may_go_on(cycle):
            cycle.transport.write(_chunk(last) + b"0\r\n\r\n")
            _complete(cycle)
        else:
            if not cycle.chunked_encoding:
                cycle.expected_content_length = len(last)
            await super().end(last)

    @property
    def is_held_up(self) -> bool:
        return bool(self._cycle.flow.write_paused)

    def cut(self) -> None:
        # Or the kernel would keep what it holds, some megabytes, for a reader who may come yet.
        connection = self._cycle.transport.get_extra_info("socket")
        with suppress(OSError):  # it is gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._cycle.transport.abort()


def writer_for(scope: Message, send: Send) -> Writer:
    """The writer of one request's answer."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is RequestResponseCycle and scope["method"] != "HEAD":
        return _UvicornWriter(send, cycle)
    if isinstance(send, partial) and hasattr(send.args[0], "registerProducer"):
        return _DaphneWriter(send, send.args[0])
    return Writer(send)


def _break_when_stuck(connection: Any) -> None:
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and connection is not None:
        with suppress(OSError):  # no TCP, or gone already
            connection.setsockopt(socket.IPPROTO_TCP, option, STUCK_S * 1000)


def _may_begin(cycle: RequestResponseCycle) -> bool:
    return not (
        cycle.response_started
        or cycle.disconnected
        or cycle.flow.write_paused
        or cycle.waiting_for_100_continue
        or not cycle.keep_alive
    )


def _may_go_on(cycle: RequestResponseCycle) -> bool:
    return bool(cycle.chunked_encoding) and not (
        cycle.disconnected or cycle.flow.write_paused or cycle.response_complete
    )


def _head(status: int, cycle: RequestResponseCycle, headers: RawHeaders, rest: bytes) -> bytes:
    if _ILLEGAL.search(b"".join([value for _, value in headers])):
        raise ValueError("a header value holds a control character")
    lines = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
    return b"%b%b%b" % (STATUS_LINE[status], b"".join(lines), rest)


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def _complete(cycle: RequestResponseCycle) -> None:
    cycle.expected_content_length = 0
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
