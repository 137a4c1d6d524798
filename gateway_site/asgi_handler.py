"""Django's ASGI handler without what an inference request does not need.

The stock handler costs 0.8-1.2 ms of CPU per request before any view: a thread context with a new
OS thread (`ASGIHandler.__call__`), request signals through sync receivers, a spooled temporary file
for the body (`read_body`), two tasks (`handle`), `response.close` in a thread (`send_response`).
This one keeps URL resolution, `ASGIRequest` and the view, and replaces those five. It serves views
whose class says `lean = True`; everything else takes the stock handler. It leans on
`ASGIHandler.__call__(scope, receive, send)`, `ASGIRequest(scope, body_file)` and `get_resolver`
of Django 5.2; tests/gateway_site/test_asgi_handler.py fails when those change.
"""

from __future__ import annotations

import asyncio
import io
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.urls import Resolver404, ResolverMatch, get_resolver

from chat.errors import GatewayError
from chat.ids import new_id
from gateway_api.answers import Answer, AnyAnswer, StreamAnswer
from gateway_api.errors import as_gateway_error
from gateway_site.logs import request_id as current_request_id
from gateway_site.writer import Message, Send, Writer, writer_for
from keys.caller import Caller

access_log = logging.getLogger("abstractcore.access")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

WATCH_AFTER_S = 0.02
"""Answers that come sooner need no watch for a caller who leaves."""
KEEPALIVE_S = 15.0
"""The longest silence of a stream."""
TICKS = 5
CHECK_S = 3.0
"""How often the reader of a stream that waits for it is asked for its permission."""
MAX_DRAIN_BYTES = 128 * 1024 * 1024
DRAIN_TIMEOUT_S = 10.0
_MAX_HOSTS = 256
_TRACES = bool(settings.TRACES_ENDPOINT)
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class LeanRequest(ASGIRequest):
    """An ASGIRequest whose body is read when the view asks for it: a caller who may not ask
    anything does not fill our memory first.

    What else Django's request holds (META, cookies, the content type) is made at the first look at
    any of it: an inference request needs three headers, and `field` finds them in the scope.
    """

    caller: Caller | None = None
    _force_auth_user = _force_auth_token = None  # DRF looks for them on every request

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.path = scope["path"]
        self.method = scope["method"]
        self._fields: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self.body_is_read = False
        self.body_is_late = False
        self.body_due = math.inf
        self.started = time.perf_counter()
        self.request_id = _request_id(self._fields.get(b"x-request-id"))
        self.traceparent = _traceparent(self._fields.get(b"traceparent"))

    def __getattr__(self, name: str) -> Any:
        if "META" in self.__dict__:
            raise AttributeError(name)
        match = self.__dict__.get("resolver_match")
        super().__init__(self.scope, io.BytesIO())
        self.resolver_match = match
        return getattr(self, name)

    def field(self, name: bytes) -> str | None:
        """A header by its lower-case name; the values of a repeated one joined, as in META."""
        value = self._fields.get(name)
        if value is None:
            return None
        if len(self._fields) != len(self.scope["headers"]):
            value = b",".join(each for key, each in self.scope["headers"] if key == name)
        return value.decode("latin-1")

    async def read_body(self, limit: int, timeout_s: float) -> bytes | None:
        """The body, or None when it is longer than `limit` bytes. Raises TimeoutError, and
        CancelledError when the caller leaves in the middle of it."""
        length = self.field(b"content-length") or "0"
        if length.isdecimal() and int(length) > limit:
            await self._drain()
            return None
        self.body_due = self.started + timeout_s
        try:
            return await self._read_pieces(limit)
        except asyncio.CancelledError:
            if not self.body_is_late:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            raise TimeoutError from None

    async def next_piece(self) -> bytes:
        """What comes next of a body that is not read whole; nothing at its end. Raises
        CancelledError when the caller leaves in the middle of it."""
        while not self.body_is_read:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            self.body_is_read = not message.get("more_body", False)
            if piece := message.get("body", b""):
                return bytes(piece)
        return b""

    async def drain(self) -> None:
        """Reads what is left of the body and keeps none of it, within bounds."""
        if not self.body_is_read:
            await self._drain()

    async def _read_pieces(self, limit: int) -> bytes | None:
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                await self._drain()
                return None
            pieces.append(piece)
            if not message.get("more_body", False):
                self.body_is_read = True
                return b"".join(pieces)

    async def _drain(self) -> None:
        """Reads on without keeping: a client that is still sending would see its connection break
        instead of the answer that says why."""
        left = MAX_DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        self.body_is_read = True
                        return
        except TimeoutError:
            pass


def _request_id(offered: bytes | None) -> str:
    """The caller's `x-request-id` when it is 1-128 visible ASCII characters, else one of ours."""
    if offered and len(offered) <= 128 and all(0x21 <= byte <= 0x7E for byte in offered):
        return str(offered, "ascii")
    return f"req_{new_id()}"


def _traceparent(offered: bytes | None) -> str:
    """The caller's span where it may become a parent of ours."""
    if offered is None or not _TRACES or not _TRACEPARENT.fullmatch(offered):
        return ""
    return str(offered, "ascii")


class Departure:
    """Watches for the caller's leaving and cancels the request's task then (M24)."""

    __slots__ = ("_loop", "_receive", "_task", "_timer", "_watcher", "seen")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.seen = False

    def watch_later(self, request: LeanRequest) -> None:
        self._timer = self._loop.call_later(WATCH_AFTER_S, self._begin, request)

    def _begin(self, request: LeanRequest) -> None:
        if request.body_is_read:
            self.watch()
            return
        # The view still receives, and only one may: the body's deadline is kept here meanwhile, by
        # the one timer every request has, because a timeout of its own would cost each of them.
        if time.perf_counter() > request.body_due:
            request.body_is_late = True
            self._task.cancel()
            return
        self.watch_later(request)

    def watch(self) -> None:
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._wait())

    async def _wait(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.seen = True
                self._task.cancel()
                return

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
            # Its CancelledError holds its frame, and that holds us: a cycle for the collector.
            self._watcher = None


class LeanASGIHandler(ASGIHandler):
    """Serves lean views itself and hands the rest to Django's own handler."""

    def __init__(self) -> None:
        super().__init__()
        self._prefix = str(settings.URL_PREFIX)
        self._static_matches: dict[str, ResolverMatch] = {}
        self._hosts: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._prefix:
            scope = _under_prefix(scope, self._prefix)
        match = self._resolve(scope)
        if match is None:
            await super().__call__(scope, receive, _with_request_id(scope, send))
        else:
            await self._answer(match, scope, receive, send)

    def _resolve(self, scope: Scope) -> ResolverMatch | None:
        """The lean view at this path. Addresses without parameters are remembered; there are only
        as many of those as the URLconf has."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        match = self._static_matches.get(path)
        if match is not None:
            return match
        try:
            match = get_resolver().resolve(path)
        except Resolver404:
            return None
        view = getattr(match.func, "view_class", None)
        if not getattr(view, "lean", False):
            return None
        if not (match.args or match.kwargs):
            self._static_matches[path] = match
        return match

    async def _answer(
        self, match: ResolverMatch, scope: Scope, receive: Receive, send: Send
    ) -> None:
        request = LeanRequest(scope, receive)
        request.resolver_match = match
        token = current_request_id.set(request.request_id)
        departure = Departure(receive)
        departure.watch_later(request)
        status = 499
        try:
            answer = await self._ask_view(match, request)
            answer.headers.append((b"x-request-id", request.request_id.encode("latin-1")))
            if isinstance(answer, StreamAnswer):
                await _send_stream(answer, departure, writer_for(scope, send))
            else:
                departure.stop()
                await _send_whole(request, answer, writer_for(scope, send))
            status = answer.status
        except asyncio.CancelledError:
            if not departure.seen and request.body_is_read:
                raise  # the server is stopping; a caller who left is nobody's failure
        finally:
            departure.stop()
            if access_log.isEnabledFor(logging.INFO):
                _log_access(request, status)
            current_request_id.reset(token)

    async def _ask_view(self, match: ResolverMatch, request: LeanRequest) -> AnyAnswer:
        # The class is asked itself: `match.func` would only make one, inside `csrf_exempt`.
        function: Any = match.func
        view = function.view_class(**function.view_initkwargs)
        view.setup(request, *match.args, **match.kwargs)
        try:
            self._check_host(request)
        except DisallowedHost as error:
            refusal: Answer = view.explain(as_gateway_error(error))
            return refusal
        answer: AnyAnswer = await view.dispatch(request, *match.args, **match.kwargs)
        return answer

    def _check_host(self, request: LeanRequest) -> None:
        host = request.field(b"host")
        if host not in self._hosts:
            request.get_host()
            if host is not None and len(self._hosts) < _MAX_HOSTS:
                self._hosts.add(host)


async def _send_stream(answer: StreamAnswer, departure: Departure, writer: Writer) -> None:
    pieces = answer.pieces
    guard = _Guard(writer, answer.check) if answer.check is not None else None
    try:
        departure.watch()
        await writer.begin(answer.status, answer.headers, answer.first)
        silence = _Silence(writer, answer.keepalive)
        try:
            async for piece in pieces:
                silence.broken = True
                await writer.piece(piece)
            last = answer.ending
        except Exception as error:  # an edge: the stream has to end in words its reader knows
            if answer.failure is None:
                raise
            last = answer.failure(error)
        finally:
            silence.stop()
        departure.stop()
        await writer.end(last)
    finally:
        if guard is not None:
            guard.stop()
        writer.leave()
        await pieces.aclose()


class _Silence:
    """Sends a comment before KEEPALIVE_S pass without a piece, so that no proxy in between takes
    the stream for dead. Pieces are whole events: a comment between two of them harms none."""

    __slots__ = ("_keepalive", "_loop", "_task", "_ticks", "_timer", "_writer", "broken")

    def __init__(self, writer: Writer, keepalive: bytes) -> None:
        self.broken = False
        self._writer = writer
        self._keepalive = keepalive
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._ticks = 0
        self._timer = self._loop.call_later(KEEPALIVE_S / TICKS, self._tick) if keepalive else None

    def _tick(self) -> None:
        # Counted in ticks, because a look at the clock for every piece costs more than this.
        self._ticks = 0 if self.broken else self._ticks + 1
        self.broken = False
        # A reader that takes nothing has a comment waiting for it already: one is enough.
        if self._ticks >= TICKS - 1 and (self._task is None or self._task.done()):
            self._ticks = 0
            self._task = self._loop.create_task(self._comment())
        self._timer = self._loop.call_later(KEEPALIVE_S / TICKS, self._tick)

    async def _comment(self) -> None:
        await self._writer.piece(self._keepalive)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


class _Guard:
    """Cuts off a reader who may not read any longer, and takes nothing by which to tell it so. The
    caller's departure, which the server tells of then, ends the rest."""

    __slots__ = ("_check", "_task", "_writer")

    def __init__(self, writer: Writer, check: Callable[[], Awaitable[None]]) -> None:
        self._writer = writer
        self._check = check
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            if self._writer.is_held_up:
                try:
                    await self._check()
                except GatewayError:
                    self._writer.cut()
                    return

    def stop(self) -> None:
        self._task.cancel()


async def _send_whole(request: LeanRequest, answer: Answer, writer: Writer) -> None:
    body = answer.body
    answer.headers.append((b"content-length", b"%d" % len(body)))
    if not request.body_is_read and request.method not in ("GET", "HEAD", "OPTIONS"):
        # What was not read of the body would be taken for the next request.
        answer.headers.append((b"connection", b"close"))
        writer = writer.plain()
    if request.method == "HEAD":
        body = b""
    await writer.whole(answer.status, answer.headers, body)


def _under_prefix(scope: Scope, prefix: str) -> Scope:
    """The scope below ABSTRACTCORE_URL_PREFIX, whether the proxy in front strips it or not."""
    path = scope["path"]
    if path != prefix and not path.startswith(f"{prefix}/"):
        path = prefix + path
    return {**scope, "root_path": prefix, "path": path}


def _with_request_id(scope: Scope, send: Send) -> Send:
    """Puts the request id on answers of the stock handler."""
    value = _request_id(dict(scope["headers"]).get(b"x-request-id")).encode("latin-1")

    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-request-id", value)]}
        await send(message)

    return send_with_id


def _log_access(request: LeanRequest, status: int) -> None:
    caller = getattr(request, "caller", None)
    access_log.info(
        "%s %s %s %.1f ms key=%s",
        request.method,
        request.path,
        status,
        (time.perf_counter() - request.started) * 1000,
        caller.name if caller else "-",
    )
