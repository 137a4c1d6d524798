"""Callers who may leave at any moment: bare sockets, so that leaving is what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.gateway import KEY, Gateway


@dataclass
class Caller:
    """One request that was sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_until(self, mark: bytes) -> None:
        await self.reader.readuntil(mark)

    async def read_all(self) -> bytes:
        """The rest, until the server closes."""
        return await self.reader.read()

    async def leave(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def asking(gateway: Gateway, request_id: str, *, stream: bool) -> AsyncIterator[Caller]:
    """A request whose caller leaves at the end of the block."""
    caller = await ask(gateway, request_id, stream=stream)
    try:
        yield caller
    finally:
        await caller.leave()


async def ask(gateway: Gateway, request_id: str, *, stream: bool) -> Caller:
    """Sends a chat request whose `user` is its request id; the connection is not kept alive."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(chat_request(request_id, stream=stream))
    return Caller(reader, writer)


def chat_request(request_id: str, *, stream: bool) -> bytes:
    body = json.dumps(
        {
            "model": "scripted/gpt-4o-mini",
            "messages": [{"role": "user", "content": "Say hello a hundred times."}],
            "stream": stream,
            "user": request_id,
        }
    ).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {KEY}",
        f"x-request-id: {request_id}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def dechunked(raw: bytes) -> bytes:
    """The body of an answer in chunked coding. AssertionError where it is not whole."""
    _, mark, rest = raw.partition(b"\r\n\r\n")
    assert mark, raw[:200]
    parts: list[bytes] = []
    while True:
        size, mark, rest = rest.partition(b"\r\n")
        assert mark, "the body breaks off"
        length = int(size, 16)
        if length == 0:
            assert rest == b"\r\n"
            return b"".join(parts)
        assert rest[length : length + 2] == b"\r\n", "a chunk breaks off"
        parts.append(rest[:length])
        rest = rest[length + 2 :]
