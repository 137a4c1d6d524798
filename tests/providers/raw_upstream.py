"""A scripted upstream on a real socket, and the calls the tests of the HTTP client make to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from chat.errors import UpstreamError
from providers.http import HttpClient, HttpReply, Timeouts

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream:
    """A server on loopback whose every connection is played by `play`, and what it saw."""

    def __init__(self, play: Callable[[Upstream, Peer], Awaitable[None]]) -> None:
        self._play = play
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        """Set when a request has come."""
        self.gone = asyncio.Event()
        """Set when a client has closed a connection."""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._play(self, Peer(self, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()

    def url(self, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}/v1/chat"


class Peer:
    """One connection as the server sees it."""

    def __init__(
        self, upstream: Upstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._upstream = upstream
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """The next request, head and body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        whole = head + await self._reader.readexactly(size)
        self._upstream.requests.append(whole)
        self._upstream.asked.set()
        return whole

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def bridge_to(self, port: int) -> None:
        """Carry bytes both ways to another server on loopback until one side ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        there = asyncio.create_task(_carry(self._reader, writer))
        await _carry(reader, self._writer)
        await there

    async def hung_up(self) -> None:
        """Wait until the client closes."""
        while await self._reader.read(65536):
            pass
        self._upstream.gone.set()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


Play = Callable[[Upstream, Peer], Awaitable[None]]


@asynccontextmanager
async def serving(
    play: Play, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Upstream]:
    upstream = Upstream(play)
    server = await asyncio.start_server(upstream.accept, host, 0, ssl=tls)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()


def answering(*answers: bytes) -> Play:
    """Answers on every connection in this order, the last one again and again."""

    async def play(upstream: Upstream, peer: Peer) -> None:
        for answer in answers[:-1]:
            await peer.request()
            await peer.send(answer)
        while True:
            await peer.request()
            await peer.send(answers[-1])

    return play


async def silent(upstream: Upstream, peer: Peer) -> None:
    await peer.request()
    await peer.hung_up()


def starting_with(data: bytes) -> Play:
    """Sends this after the request and then nothing."""

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(data)
        await peer.hung_up()

    return play


async def post(
    client: HttpClient,
    url: str,
    *,
    body: bytes = b"{}",
    headers: dict[str, str] | None = None,
    timeouts: Timeouts | None = None,
) -> HttpReply:
    return await client.request(
        "POST", url, headers=headers or {}, body=body, timeouts=timeouts or Timeouts()
    )


async def failure(call: Awaitable[object]) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await call
    return caught.value


def kind(error: UpstreamError) -> tuple[str, bool]:
    return error.kind, error.retryable
