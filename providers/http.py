"""The one import site of the shared upstream HTTP client: our own HTTP/1.1 on httptools' parser,
behind the outbound guard.

Measured on a busy machine, both in one run (16 at once, uvloop; CPU-us; httptools 0.9.0, aiohttp
3.14.5): a request 21-23, with aiohttp 78-130 (one at a time 26-32 and 118-154); a paced chunk 12-19
and 17-26; a chunk of a burst 2.3-3.1 and 3.0-3.7. On a quieter one aiohttp took 80-88 and 18-28,
pyreqwest 0.15.1 33-45 and 26-31, and that holds the response head back until 64 KiB or the end have
come. A gateway's request costs little more than its upstream's: hence a client of our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from chat.errors import UpstreamError, UpstreamFailed
from providers.http_body import Decoder, decoder_for
from providers.http_connecting import connect
from providers.http_connection import Connection, Pool
from providers.http_failures import broken, not_http
from providers.http_request import request_head, upload_head
from providers.outbound import CheckedTarget, OutboundGuard, OutboundPolicy

logger = logging.getLogger(__name__)

MAX_BODY = 64 * 1024 * 1024

_POOLS = 1024
_SAFE = frozenset(["GET", "HEAD"])


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


class Headers(Mapping[str, str]):
    """Response headers; names without regard to case, of a repeated one the first."""

    __slots__ = ("_raw",)

    def __init__(self, raw: dict[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        return self._raw[name.lower().encode("latin-1", "replace")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


class HttpReply:
    """A response whose head is here and whose body is still to be read by one reader.

    `headers.get(name)` ignores case. `read`, or go on to the end, or `close`: nothing else frees
    it.
    """

    __slots__ = ("_broken", "_connection", "_idle", "_pool", "headers", "status")

    def __init__(self, connection: Connection, *, pool: Pool, idle: float) -> None:
        self.status = connection.status
        self.headers: Mapping[str, str] = Headers(connection.headers)
        self._connection: Connection | None = connection
        self._pool = pool
        self._idle = idle
        self._broken = False

    async def read(self, *, limit: int = MAX_BODY) -> bytes:
        """The whole body, decoded; whatever happens, the response is let go of. Raises
        UpstreamFailed when it is longer than `limit` bytes, and what `next_bytes` raises."""
        pieces = []
        room = limit
        try:
            while piece := await self.next_bytes():
                room -= len(piece)
                if room < 0:
                    raise UpstreamFailed("The upstream's answer is too large.")
                pieces.append(piece)
        finally:
            self.close()
        return b"".join(pieces) if len(pieces) != 1 else pieces[0]

    async def next_bytes(self) -> bytes:
        """What has arrived, joined; waits when there is nothing yet; `b""` at the end.

        Raises UpstreamTimeout (idle, total) and UpstreamUnreachable (the connection broke), neither
        retryable: part of the answer has been given away.
        """
        connection = self._connection
        if connection is None:
            return self._nothing_more()
        while not (piece := connection.take()):
            if connection.complete:
                break
            if connection.failure is not None:
                raise self._failed(connection)
            try:
                await connection.arrival(self._idle)
            except asyncio.CancelledError:
                self.close()
                raise
            if self._connection is not connection:  # closed meanwhile, perhaps in use again
                return self._nothing_more()
        if connection.complete:
            self._connection = None
            connection.release(self._pool)
        return piece

    def finish(self) -> bool:
        """Let go of a response whose end has come; returns whether it has."""
        connection = self._connection
        if connection is None or not connection.complete:
            return connection is None
        self._connection = None
        connection.release(self._pool)
        return True

    def close(self) -> None:
        """Let go of the response; a body not received to its end takes its connection with it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._broken = not connection.complete
            connection.release(self._pool)

    def _nothing_more(self) -> bytes:
        if self._broken:
            raise broken()
        return b""

    def _failed(self, connection: Connection) -> UpstreamError:
        self.close()
        failure = connection.failure or broken
        logger.info("upstream connection broke: %s", failure.__name__)
        return failure()


class _EncodedReply(HttpReply):
    """A reply whose body is compressed, although that was not asked for."""

    __slots__ = ("_decoder",)

    def __init__(
        self, connection: Connection, *, pool: Pool, idle: float, decoder: Decoder
    ) -> None:
        super().__init__(connection, pool=pool, idle=idle)
        self._decoder = decoder

    async def next_bytes(self) -> bytes:
        try:
            while not (piece := self._decoder.take()):
                packed = await super().next_bytes()
                if not packed:
                    self._decoder.end()
                    return b""
                self._decoder.feed(packed)
        except ValueError:
            self.close()
            raise broken() from None
        return piece


class HttpClient:
    """Requests to upstreams on one event loop, over kept-alive connections without a limit.

    Headers, credentials among them, belong to a request and never to a connection, so changed keys
    disturb no live stream (M4). Redirects are answers, never followed. A connection the upstream
    closed while it was idle is not used again; a POST that was sent is never sent twice.
    """

    def __init__(self, guard: OutboundGuard) -> None:
        self._guard = guard
        self._pools: dict[tuple[object, ...], Pool] = {}
        self._connections: set[Connection] = set()
        self._all_lost = asyncio.Event()
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
        if self._closed:
            raise RuntimeError("this HttpClient is closed")
        head = request_head(method, target, headers=headers, body=body)
        pool = self._pool(target)
        began = asyncio.get_running_loop().time()
        kept = _idle_connection(pool, target)
        connection = kept or await self._connect(target, timeouts)
        while True:
            connection.send(
                head,
                body,
                bodiless=method == "HEAD",
                due=began + min(timeouts.first_byte, timeouts.total),
                deadline=began + timeouts.total,
            )
            try:
                await connection.head()
                break
            except UpstreamError as error:
                logger.info("%s:%d failed: %s", target.host, target.port, error.message)
                # Closed while it was idle and nobody knew yet: worth a second try where the first
                # cannot have changed anything.
                if connection is not kept or not connection.unanswered or method not in _SAFE:
                    raise
                connection = await self._connect(target, timeouts)
        return _reply(connection, pool=pool, idle=timeouts.idle)

    async def upload(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        pieces: AsyncIterator[bytes],
        length: int | None,
        timeouts: Timeouts,
    ) -> HttpReply:
        """`request` with a body that is sent as it comes, on a connection of its own: it cannot be
        sent twice. `length` is what the pieces come to, None where nobody knows. `first_byte` runs
        from the last piece, `idle` while the upstream takes none.

        Raises what `pieces` raises too. No failure after the first piece is retryable.
        """
        target = await self._guard.check(url)
        if self._closed:
            raise RuntimeError("this HttpClient is closed")
        head = upload_head(method, target, headers=headers, length=length)
        pool = self._pool(target)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeouts.total
        connection = await self._connect(target, timeouts)
        try:
            connection.send(head, None, bodiless=False, due=deadline, deadline=deadline)
            await connection.send_body(pieces, chunked=length is None, idle=timeouts.idle)
            connection.expect_head(loop.time() + timeouts.first_byte)
            await connection.head()
        except BaseException as error:
            connection.close()
            if isinstance(error, UpstreamError):
                logger.info("%s:%d failed: %s", target.host, target.port, error.message)
                error.retryable = False
            raise
        return _reply(connection, pool=pool, idle=timeouts.idle)

    async def aclose(self) -> None:
        """Close every connection, those in use too. A closed client refuses requests."""
        self._closed = True
        self._pools.clear()
        for connection in list(self._connections):
            connection.close()
        if self._connections:
            await self._all_lost.wait()

    def _pool(self, target: CheckedTarget) -> Pool:
        key = (target.scheme, target.host, target.port, target.proxy)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= _POOLS:  # tools may reach any number of origins
                self._pools = {each: kept for each, kept in self._pools.items() if kept}
            pool = self._pools[key] = {}
        return pool

    async def _connect(self, target: CheckedTarget, timeouts: Timeouts) -> Connection:
        timeout_s = min(timeouts.connect, timeouts.first_byte, timeouts.total)
        connection = await connect(target, timeout_s=timeout_s, make=self._make)
        if self._closed:
            connection.close()
            raise RuntimeError("this HttpClient is closed")
        return connection

    def _make(self) -> Connection:
        return Connection(
            asyncio.get_running_loop(), stands=self._connections.add, lost=self._forget
        )

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._closed and not self._connections:
            self._all_lost.set()


def _idle_connection(pool: Pool, target: CheckedTarget) -> Connection | None:
    while pool:
        connection, _ = pool.popitem()
        if not connection.closed and _leads_to(connection, target):
            return connection
        connection.close()  # the name has moved to other addresses
    return None


def _leads_to(connection: Connection, target: CheckedTarget) -> bool:
    return target.proxy is not None or connection.address in target.addresses


def _reply(connection: Connection, *, pool: Pool, idle: float) -> HttpReply:
    encoding = connection.headers.get(b"content-encoding")
    if encoding is None:
        return HttpReply(connection, pool=pool, idle=idle)
    try:
        decoder = decoder_for(encoding.decode("latin-1"))
    except ValueError:
        connection.close()
        raise not_http() from None
    if decoder is None:
        return HttpReply(connection, pool=pool, idle=idle)
    return _EncodedReply(connection, pool=pool, idle=idle, decoder=decoder)


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
