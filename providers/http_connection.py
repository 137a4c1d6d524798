"""One HTTP/1.1 connection to an upstream: llhttp (httptools) on an asyncio protocol.

It carries one exchange at a time: `send`, `head`, then `take` and `arrival` in turn until
`complete`, then `release`. What is waited for ends in one future and one timer, which is moved on
when it fires, because a timer per wait costs more than the wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from chat.errors import UpstreamError
from providers.http_failures import broken, hung_up, not_http, silent, stalled

Pool: TypeAlias = "dict[Connection, None]"
"""Idle connections to one origin, the one used last at the end."""

KEEPALIVE_S = 60.0

_HEAD_LIMIT = 64 * 1024
_UNREAD_LIMIT = 256 * 1024
_JOINED_WRITE = 64 * 1024


class Connection(asyncio.Protocol):
    """A connection and the exchange on it. `stands` is called when it is made, `lost` when it is
    lost or handed over."""

    __slots__ = (
        "_awaits_room",
        "_bodiless",
        "_deadline",
        "_due",
        "_full",
        "_idle",
        "_interim",
        "_loop",
        "_lost",
        "_parser",
        "_paused",
        "_pieces",
        "_pool",
        "_reusable",
        "_stands",
        "_timer",
        "_timer_at",
        "_transport",
        "_unread",
        "_unsent",
        "_waiter",
        "address",
        "closed",
        "complete",
        "failure",
        "headers",
        "on_body",
        "status",
        "unanswered",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        stands: Callable[[Connection], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self._loop = loop
        self._stands = stands
        self._lost = lost
        self._pool: Pool | None = None
        self.address: str | None = None
        """The checked address at the other end; None behind a proxy."""
        self.closed = False
        self.status = 0
        """Of the response; 0 until its head is here."""
        self.headers: dict[bytes, bytes] = {}
        """Names in lower case; of a repeated header the first."""
        self.complete = False
        """Whether the response has been received to its end."""
        self.failure: Callable[[], UpstreamError] | None = None
        """What makes the error: one that was kept here and raised would hold us in a cycle."""
        self.unanswered = True
        """Whether nothing has come since the request was sent."""
        self._idle = True
        self._interim = False
        self._reusable = False
        self._bodiless = False
        self._paused = False
        self._full = False
        self._awaits_room = False
        self._unsent = False
        self._unread = 0
        self._pieces: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = math.inf
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        # The parser keeps what these names are now: its pieces go into the list without Python.
        self.on_body = self._pieces.append
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    # -- one exchange ------------------------------------------------------------------------------

    def send(
        self, head: bytes, body: bytes | None, *, bodiless: bool, due: float, deadline: float
    ) -> None:
        """Write a request whose response head must be here at `due`, the rest at `deadline` (times
        of the loop). The response to a `bodiless` one (HEAD, CONNECT) ends with its head."""
        self._pool = None
        self._idle = self.complete = self._reusable = False
        self.unanswered = True
        self._bodiless = bodiless
        self.status = self._unread = 0
        self.headers = {}
        self._deadline = deadline
        if not self.closed:
            self._let_wait_until(due)
        transport = self._transport
        if transport is None or self.closed:  # as soon as it stood, and nobody was told
            self.failure = hung_up
        elif body is None:
            transport.write(head)
        elif len(body) <= _JOINED_WRITE:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def send_body(self, pieces: AsyncIterator[bytes], *, chunked: bool, idle: float) -> None:
        """Send the body of a request whose head went out with `send` and no body: no faster than it
        is taken, and no longer than an answer is not here. Raises what `pieces` raises."""
        self._unsent = True
        async for piece in pieces:
            if not piece:
                continue  # in chunks, nothing is the end
            if self._full and not self._is_settled:
                await self._room(idle)
            if self._is_settled or self._transport is None or self._transport.is_closing():
                return  # an answer that does not wait for the rest; the connection ends with it
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await asyncio.sleep(0)  # pieces at hand would never let such an answer be heard
        if chunked and self._transport is not None and not self.closed:
            self._transport.write(b"0\r\n\r\n")
        self._unsent = False

    @property
    def _is_settled(self) -> bool:
        return self.status != 0 or self.failure is not None

    async def _room(self, idle: float) -> None:
        self._awaits_room = True
        try:
            await self.arrival(idle)
        finally:
            self._awaits_room = False

    def expect_head(self, due: float) -> None:
        """Let the response head be late from `due` on, a time of the loop."""
        if not self.closed:
            self._let_wait_until(min(due, self._deadline))

    async def head(self) -> None:
        """Wait for the response head. Raises UpstreamError; a cancelled wait closes."""
        if not self.status and self.failure is None:
            waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            except asyncio.CancelledError:
                self.close()
                raise
        if self.failure is not None and not self.status:
            raise self.failure()

    def arrival(self, idle: float) -> asyncio.Future[None]:
        """Done when a piece, the end or a failure is here, at the latest after `idle` seconds."""
        loop = self._loop
        due = loop.time() + idle
        self._due = due = due if due < self._deadline else self._deadline
        if due < self._timer_at:
            self._let_wait_until(due)
        waiter = self._waiter = loop.create_future()
        return waiter

    def take(self) -> bytes:
        """What has arrived of the body, joined."""
        pieces = self._pieces
        if not pieces:
            return b""
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return taken

    def release(self, pool: Pool) -> None:
        """Offer the connection for the next exchange; it is closed where it cannot have one."""
        if not self._can_go_on():
            self.close()
            return
        self.take()
        self._idle = True
        self._pool = pool
        pool[self] = None
        self._let_wait_until(self._loop.time() + KEEPALIVE_S)

    def _can_go_on(self) -> bool:
        if self._transport is None or self.closed or not self._reusable or not self.complete:
            return False
        if self._unsent:
            return False
        return not self._transport.get_write_buffer_size()  # answered before it was all sent

    def close(self) -> None:
        """Close at once; an exchange that goes on has failed."""
        if not self._idle and not self.complete and self.failure is None:
            self.failure = broken
        self._mark_closed()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def hand_over(self) -> asyncio.Transport:
        """The transport, for another protocol to go on with. Raises ConnectionResetError."""
        if self._transport is None or self.closed:
            raise ConnectionResetError
        self._mark_closed()
        self._lost(self)
        return self._transport

    # -- asyncio.Protocol --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        made = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        self._transport = made
        if self.closed:  # inside TLS, where we are told of the end before we are told of the start
            made.abort()
        else:
            self._stands(self)

    def data_received(self, data: bytes) -> None:
        if self._idle or self.closed:
            self.close()  # nobody asked: a 408, or an answer too many
            return
        self.unanswered = False
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._misunderstand()
            return
        self._unread += len(data)
        if self._pieces or self.complete:
            if self._waiter is not None:
                self._wake()
            elif self._unread > _UNREAD_LIMIT and not self._paused and not self.complete:
                self._pause()
        elif self._unread > _HEAD_LIMIT:
            self._misunderstand()  # a head, a trailer or a chunk's extension without end

    def _pause(self) -> None:
        if self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._awaits_room:
            self._wake()

    def eof_received(self) -> None:
        self._end(clean=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(clean=exc is None)
        self._mark_closed()
        self._lost(self)
        del self._parser  # it holds our methods: a cycle that only the collector would find

    # -- HttpResponseParser ------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else a trailer
            self.headers.setdefault(name.lower(), value)
        elif self.complete:
            raise ValueError("a second response")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.complete or status == 101:
            raise ValueError("a response nobody asked for")
        if status < 200:
            self._interim = True
            self.headers = {}
            return
        self.status = status
        self.complete = self._bodiless
        self._wake()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self.complete = True
        self._reusable = self._parser.should_keep_alive() and not self._bodiless

    # -- ends --------------------------------------------------------------------------------------

    def _misunderstand(self) -> None:
        self._reusable = False
        if self.complete:
            self._wake()  # the answer is whole; what follows it makes the connection useless
        else:
            self._fail(broken if self.status else not_http)

    def _end(self, *, clean: bool) -> None:
        if self.closed:
            return
        self._mark_closed()
        if self._idle or self.complete:
            return
        if not self.status:
            self._fail(hung_up)
        elif clean and self._lasts_until_close():
            self.complete = True
            self._wake()
        else:
            self._fail(broken)

    def _lasts_until_close(self) -> bool:
        # RFC 9112, 6.3: without a length and without a last chunk only the close tells the end.
        coding = self.headers.get(b"transfer-encoding", b"").rpartition(b",")[2].strip().lower()
        return b"content-length" not in self.headers and coding != b"chunked"

    def _fail(self, failure: Callable[[], UpstreamError]) -> None:
        self.failure = failure
        self.close()

    def _mark_closed(self) -> None:
        self.closed = True
        if self._pool is not None:
            self._pool.pop(self, None)
            self._pool = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        waiter = self._waiter
        self._due = self._deadline  # a reader that takes its time is no idle upstream
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # -- the timer ---------------------------------------------------------------------------------

    def _let_wait_until(self, due: float) -> None:
        self._due = due
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer_at = self._due
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() < self._due:
            self._set_timer()
        elif self._idle:
            self.close()
        elif self.complete:
            self._reusable = False  # nobody has fetched it in all this time
            self.close()
        else:
            self._fail(stalled if self.status else silent)
