"""A Redis that knows publishing and subscribing, and may be slow or away: what channels-redis says
to one, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ScriptedRedis:
    """`delay_s` holds every answer back; `published` counts what came."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.published = 0
        self.port = 0
        self._subscribers: dict[bytes, set[asyncio.StreamWriter]] = {}

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                name, *arguments = await _command(reader)
                await asyncio.sleep(self.delay_s)
                writer.write(self._answer(name.upper(), arguments, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            for listening in self._subscribers.values():
                listening.discard(writer)
        finally:
            writer.close()

    def _answer(self, name: bytes, arguments: list[bytes], writer: asyncio.StreamWriter) -> bytes:
        match name:
            case b"HELLO":
                return b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"
            case b"PUBLISH":
                return self._publish(*arguments)
            case b"SUBSCRIBE":
                self._subscribers.setdefault(arguments[0], set()).add(writer)
                return _pushed(b"subscribe", arguments[0]) + b":1\r\n"
            case b"UNSUBSCRIBE":
                self._subscribers.get(arguments[0], set()).discard(writer)
                return _pushed(b"unsubscribe", arguments[0]) + b":0\r\n"
            case b"PING":
                return b"+PONG\r\n"
        return b"+OK\r\n"

    def _publish(self, channel: bytes, message: bytes) -> bytes:
        self.published += 1
        listening = self._subscribers.get(channel, set())
        for writer in listening:
            writer.write(_pushed(b"message", channel) + _bulk(message))
        return b":%d\r\n" % len(listening)


@asynccontextmanager
async def scripted_redis() -> AsyncIterator[ScriptedRedis]:
    redis = ScriptedRedis()
    server = await asyncio.start_server(redis.serve, "127.0.0.1", 0)
    redis.port = server.sockets[0].getsockname()[1]
    try:
        yield redis
    finally:
        server.close()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    number = int((await reader.readuntil(b"\r\n"))[1:])
    parts = []
    for _ in range(number):
        length = int((await reader.readuntil(b"\r\n"))[1:])
        parts.append((await reader.readexactly(length + 2))[:-2])
    return parts


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _pushed(kind: bytes, channel: bytes) -> bytes:
    """The first two of three parts."""
    return b">3\r\n" + _bulk(kind) + _bulk(channel)
