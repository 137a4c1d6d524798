"""The one import site of the shared upstream HTTP client: aiohttp, behind the outbound guard.

Measured with aiohttp 3.14.5 and pyreqwest 0.15.1 (16 at once, uvloop; CPU-us, three rounds):
a request 80-88 and 33-45; a paced chunk 18-28 and 26-31; a chunk of a burst 5.5-7 and 8-10. At its
default pyreqwest holds the response head back until 64 KiB or the end have come, so its chunks are
those of `streamed_read_buffer_limit(0)`, where it never joins two (103 pieces a stream, not 20).
Chunks outnumber requests, and one resolver pins every address: hence aiohttp.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from chat.errors import UpstreamError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from providers.outbound import CheckedTarget, OutboundGuard, OutboundPolicy

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024 * 1024

_KEEPALIVE_S = 60.0
_LOOK_S = 1.0
_DEFAULT_HEADERS = {
    "User-Agent": "abstractcore-server",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """All in seconds; `total` bounds the whole exchange, the others one phase of it."""

    connect: float = 5.0
    """Until the connection stands, TLS included."""
    first_byte: float = 60.0
    """From the call to the response head, connecting included."""
    idle: float = 60.0
    """Between two pieces of the body, counted only while somebody waits for one."""
    total: float = 600.0


class HttpReply:
    """A response whose head is here and whose body is still to be read by one reader.

    `headers.get(name)` ignores case. Read to the end, or `close()`: nothing else frees it.
    """

    __slots__ = ("_deadline", "_failure", "_idle", "_loop", "_response", "_since", "_timer")

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        loop: asyncio.AbstractEventLoop,
        idle: float,
        deadline: float,
    ) -> None:
        self._response = response
        self._loop = loop
        self._idle = idle
        self._deadline = deadline
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: UpstreamError | None = None

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    async def read(self, *, limit: int = MAX_BODY) -> bytes:
        """The whole body, decoded. Raises UpstreamFailed when it is longer than `limit` bytes, and
        what `next_bytes` raises."""
        pieces = []
        room = limit
        while piece := await self.next_bytes():
            room -= len(piece)
            if room < 0:
                self.close()
                raise UpstreamFailed("The upstream's answer is too large.")
            pieces.append(piece)
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    async def next_bytes(self) -> bytes:
        """What has arrived, joined; waits when there is nothing yet; `b""` at the end.

        Raises UpstreamTimeout (idle, total) and UpstreamUnreachable (the connection broke), neither
        retryable: part of the answer has been given away.
        """
        content = self._response.content
        try:
            piece = content.read_nowait()
            if piece or content.at_eof():
                return piece if piece else self._ended()
            self._watch()
            piece = await content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from None
        except asyncio.CancelledError:
            self.close()
            raise
        self._since = None
        return piece or self._ended()

    def close(self) -> None:
        """Let go of the response; a body not read to its end takes its connection with it."""
        self._stop_watching()
        self._response.close()

    def _watch(self) -> None:
        # One timer a reply, moved on when it fires: a timer per wait costs more than the wait.
        self._since = now = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._next_look(now), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._due(now):
            self._failure = UpstreamTimeout("The upstream stopped answering.")
            self.close()
        elif self._since is not None and self._is_cut_off():
            self.close()
        else:
            self._timer = self._loop.call_at(self._next_look(now), self._look)

    def _due(self, now: float) -> float:
        return min((now if self._since is None else self._since) + self._idle, self._deadline)

    def _next_look(self, now: float) -> float:
        return min(self._due(now), now + _LOOK_S)

    def _is_cut_off(self) -> bool:
        # aiohttp 3.14.5 closes a connection whose chunk framing is broken without waking the reader
        # (its C parser forgets the body before it raises).
        connection = self._response.connection
        return connection is not None and connection.closed

    def _ended(self) -> bytes:
        self._stop_watching()
        return b""

    def _broken(self, error: Exception) -> UpstreamError:
        self.close()
        if self._failure is not None:
            return self._failure
        logger.info("upstream connection broke: %s", type(error).__name__)
        return UpstreamUnreachable(
            "The connection to the upstream broke.", kind="network", retryable=False
        )

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HttpClient:
    """Requests to upstreams on one event loop, over kept-alive connections without a limit.

    Headers, credentials among them, belong to a request and never to a connection, so changed keys
    disturb no live stream (M4). Redirects are answers, never followed. A connection the upstream
    closed while it was idle is not used again; a POST that was sent is never sent twice.
    """

    def __init__(self, guard: OutboundGuard) -> None:
        self._guard = guard
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeouts: Timeouts,
    ) -> HttpReply:
        """Send a request and return when the head of its response is here, whatever its status.

        Raises UpstreamUnreachable and UpstreamTimeout; retryable unless TLS, the guard or the
        protocol refuses, since no byte of an answer has come.
        """
        target = await self._guard.check(url)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(min(timeouts.first_byte, timeouts.total)):
                response = await self._open().request(
                    method,
                    target.url,
                    headers=headers,
                    data=body,
                    proxy=target.proxy,
                    allow_redirects=False,
                    timeout=_client_timeout(timeouts.connect),
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failure(error, target) from None
        return HttpReply(response, loop=loop, idle=timeouts.idle, deadline=began + timeouts.total)

    async def aclose(self) -> None:
        """Close every connection, those in use too. A closed client refuses requests."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            if self._closed:
                raise RuntimeError("this HttpClient is closed")
            self._session = _session(self._guard)
        return self._session


def _session(guard: OutboundGuard) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        resolver=_GuardedResolver(guard),
        use_dns_cache=False,
        limit=0,
        keepalive_timeout=_KEEPALIVE_S,
    )
    return aiohttp.ClientSession(
        connector=connector,
        headers=_DEFAULT_HEADERS,
        skip_auto_headers=("Content-Type",),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@lru_cache(maxsize=64)
def _client_timeout(connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=connect)


class _GuardedResolver(AbstractResolver):
    """Gives the client the addresses the guard has checked, so that it connects to no others.

    Literal addresses never come here; they were checked with their URL.
    """

    def __init__(self, guard: OutboundGuard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if self._guard.is_proxy(host):
            return await aiohttp.ThreadedResolver().resolve(host, port, family)
        return [_resolved(host, port, each) for each in await self._guard.addresses(host)]

    async def close(self) -> None:
        """Nothing is held."""


def _resolved(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=family,
        proto=0,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


def _failure(error: Exception, target: CheckedTarget) -> UpstreamError:
    logger.info("%s:%d failed: %s", target.host, target.port, type(error).__name__)
    match error:
        case aiohttp.ServerFingerprintMismatch() | aiohttp.ClientSSLError():
            return _unreachable("TLS with the upstream failed", kind="tls", retryable=False)
        case aiohttp.ConnectionTimeoutError():
            return UpstreamTimeout("Connecting to the upstream took too long.", retryable=True)
        case TimeoutError():
            return UpstreamTimeout("The upstream did not answer in time.", retryable=True)
        case aiohttp.ClientHttpProxyError():
            return _unreachable("The proxy refused", kind="network", retryable=False)
        case aiohttp.ClientConnectorDNSError():
            return _unreachable("The upstream's name has no address", kind="dns", retryable=True)
        case aiohttp.ClientConnectorError():
            return _unreachable("The upstream cannot be reached", kind="network", retryable=True)
        case aiohttp.ClientConnectionError() | OSError():
            return _unreachable(
                "The upstream hung up before it answered", kind="network", retryable=True
            )
    return _unreachable(
        "The upstream does not speak HTTP as expected", kind="protocol", retryable=False
    )


def _unreachable(message: str, *, kind: str, retryable: bool) -> UpstreamUnreachable:
    return UpstreamUnreachable(f"{message}.", kind=kind, retryable=retryable)


@dataclass(slots=True)
class _Shared:
    clients: dict[OutboundPolicy, HttpClient]
    lifetime: AsyncGenerator[None, None]
    """Held because a loop refers to its generators only weakly."""


_shared: dict[asyncio.AbstractEventLoop, _Shared] = {}


def shared_client(policy: OutboundPolicy) -> HttpClient:
    """The client of the running event loop for `policy`, closed when that loop shuts down."""
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None:
        shared = _shared[loop] = _share(loop)
    client = shared.clients.get(policy)
    if client is None:
        client = shared.clients[policy] = HttpClient(OutboundGuard(policy))
    return client


def _share(loop: asyncio.AbstractEventLoop) -> _Shared:
    for ended in [each for each in _shared if each.is_closed()]:
        del _shared[ended]  # a loop that was closed without shutting its generators down
    shared = _Shared({}, _until_shutdown(loop))
    _start(shared.lifetime)
    return shared


async def _until_shutdown(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    # asyncio.run, uvicorn and pytest-asyncio end every loop with `shutdown_asyncgens`, which closes
    # this generator: the one hook a loop has for things that are to end with it.
    try:
        yield
    finally:
        shared = _shared.pop(loop, None)
        for client in list(shared.clients.values()) if shared is not None else []:
            await client.aclose()


def _start(generator: AsyncGenerator[None, None]) -> None:
    with contextlib.suppress(StopIteration):
        generator.__anext__().send(None)  # runs to its `yield`, which registers it with the loop
