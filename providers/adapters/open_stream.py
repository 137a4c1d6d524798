"""A stream an upstream has begun, read batch by batch to its end: the same for every wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from chat.errors import GatewayError
from chat.types import Batch
from providers.adapters.base import Endpoint
from providers.adapters.credential import without
from providers.http import HttpReply

_END_GRACE_S = 0.5


class StreamReader(Protocol):
    """Reads one stream of one wire: bytes in, batches out."""

    done: bool
    """Set by what the wire ends its streams with."""
    failure: GatewayError | None
    """What a packet brought after the batch it gave: to be raised once that is given away, so that
    it does not matter how a stream was cut."""

    def feed(self, packet: bytes) -> Batch | None:
        """What a packet brings, or None. Raises GatewayError for a failure before anything else."""

    def finish(self) -> Batch | None:
        """Call at the end of the bytes: judges a stream that came to no `done`."""


@dataclass(slots=True)
class OpenStream:
    """A reply whose status is good, and who reads it."""

    reply: HttpReply
    reader: StreamReader
    read_whole: Callable[[bytes], Batch] | None = None
    """Reads the plain JSON that a server which ignores `stream` answers with."""
    keeps_wire: bool = True
    """Whether the reader's bytes are on the caller's wire."""


async def read_batches(
    open_stream: Callable[[], Awaitable[OpenStream]], endpoint: Endpoint
) -> AsyncGenerator[Batch]:
    """The batches of a stream. It is opened in here because a generator around this one would cost
    a step for each of them. Raises GatewayError."""
    stream = await open_stream()
    reply, reader, keeps_wire = stream.reply, stream.reader, stream.keeps_wire
    try:
        if stream.read_whole is not None and _is_plain_json(reply):
            yield stream.read_whole(without(await reply.read(), endpoint.api_key))
            return
        while True:
            packet = await reply.next_bytes()
            batch = reader.feed(packet) if packet else reader.finish()
            if batch is not None:
                if not keeps_wire:
                    batch.wire = None
                yield batch
            if reader.failure is not None:
                raise _take_failure(reader)
            if reader.done or not packet:
                break
        await _read_end(reply)
    finally:
        reply.close()


def _is_plain_json(reply: HttpReply) -> bool:
    return (reply.headers.get("content-type") or "").startswith("application/json")


def _take_failure(reader: StreamReader) -> GatewayError:
    """The failure, no longer held: raised, it holds its frames and they the reader, a cycle that
    only the collector would find."""
    failure, reader.failure = reader.failure, None
    assert failure is not None
    return failure


async def _read_end(reply: HttpReply) -> None:
    """Reads the few bytes after the end, or the connection could not be used again; an upstream
    that keeps it open only loses that."""
    if reply.finish():
        return
    with contextlib.suppress(TimeoutError, GatewayError):
        async with asyncio.timeout(_END_GRACE_S):
            while await reply.next_bytes():
                pass
