"""Bodies sent in pieces, against real sockets on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from chat.errors import InvalidRequest
from providers.http import HttpClient, HttpReply, Timeouts
from tests.providers.raw_upstream import OK, Peer, Upstream, failure, serving

PIECE = b"x" * 65536


async def pieces(*given: bytes) -> AsyncGenerator[bytes]:
    for piece in given:
        yield piece


async def upload(
    client: HttpClient,
    upstream: Upstream,
    source: AsyncGenerator[bytes],
    *,
    length: int | None = None,
    timeouts: Timeouts | None = None,
) -> HttpReply:
    return await client.upload(
        "POST",
        upstream.url(),
        headers={"content-type": "text/plain", "content-length": "7", "transfer-encoding": "x"},
        pieces=source,
        length=length,
        timeouts=timeouts or Timeouts(),
    )


async def test_a_body_of_known_length_goes_out_as_it_is(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with serving(play) as upstream:
        reply = await upload(client, upstream, pieces(b"one", b"two"), length=6)
        assert (reply.status, await reply.read()) == (200, b"ok")
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert head.lower().count(b"content-length: 6") == 1
    assert b"transfer-encoding" not in head.lower()


async def test_a_body_of_unknown_length_goes_out_in_chunks(client: HttpClient) -> None:
    received = b""

    async def play(upstream: Upstream, peer: Peer) -> None:
        nonlocal received
        while not received.endswith(b"0\r\n\r\n"):
            received += await peer._reader.read(1000)
        await peer.send(OK)

    async with serving(play) as upstream:
        reply = await upload(client, upstream, pieces(b"one", b"", b"three"))
        assert await reply.read() == b"ok"
    head, _, body = received.partition(b"\r\n\r\n")
    assert body == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head


async def test_an_upstream_that_takes_nothing_is_not_read_ahead_of(client: HttpClient) -> None:
    asked = 0

    async def source() -> AsyncGenerator[bytes]:
        nonlocal asked
        for _ in range(10_000):
            asked += 1
            yield PIECE

    async def play(upstream: Upstream, peer: Peer) -> None:
        await asyncio.Event().wait()

    async with serving(play) as upstream:
        timeouts = Timeouts(idle=0.3)
        error = await failure(upload(client, upstream, source(), timeouts=timeouts))
    assert asked < 200  # the sockets' own buffers, and little more
    assert (error.kind, error.retryable) == ("timeout", False)


async def test_a_slow_upstream_gets_all_of_it(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await asyncio.sleep(0.2)
        assert len(await peer.request()) > 100 * len(PIECE)
        await peer.send(OK)

    async with serving(play) as upstream:
        reply = await upload(client, upstream, pieces(*[PIECE] * 100), length=100 * len(PIECE))
        assert await reply.read() == b"ok"


async def test_an_answer_before_the_end_ends_the_body_and_the_connection(
    client: HttpClient,
) -> None:
    async def source() -> AsyncGenerator[bytes]:
        for _ in range(10_000):
            yield PIECE
            await asyncio.sleep(0)

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer._reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno")
        await peer.hung_up()

    async with serving(play) as upstream:
        reply = await upload(client, upstream, source(), length=10_000 * len(PIECE))
        assert (reply.status, await reply.read()) == (413, b"no")
        async with asyncio.timeout(5):
            await upstream.gone.wait()


async def test_a_late_head_is_a_timeout_that_is_not_tried_again(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.hung_up()

    async with serving(play) as upstream:
        timeouts = Timeouts(first_byte=0.2)
        error = await failure(upload(client, upstream, pieces(b"a"), length=1, timeouts=timeouts))
        async with asyncio.timeout(5):
            await upstream.gone.wait()
    assert (error.kind, error.retryable) == ("timeout", False)


async def test_a_sender_that_takes_its_time_is_no_late_upstream(client: HttpClient) -> None:
    async def source() -> AsyncGenerator[bytes]:
        yield b"a"
        await asyncio.sleep(0.4)
        yield b"b"

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with serving(play) as upstream:
        timeouts = Timeouts(first_byte=0.2, idle=0.2)
        reply = await upload(client, upstream, source(), length=2, timeouts=timeouts)
        assert await reply.read() == b"ok"


async def test_an_upstream_that_hangs_up_is_unreachable(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer._reader.readuntil(b"\r\n\r\n")

    async with serving(play) as upstream:
        source = pieces(*[PIECE] * 1000)
        error = await failure(upload(client, upstream, source, length=1000 * len(PIECE)))
    assert (error.kind, error.retryable) == ("network", False)


async def test_what_fails_in_the_source_closes_the_connection(client: HttpClient) -> None:
    async def source() -> AsyncGenerator[bytes]:
        yield b"a"
        raise InvalidRequest("no form")

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()

    async with serving(play) as upstream:
        with pytest.raises(InvalidRequest):
            await upload(client, upstream, source(), length=2)
        async with asyncio.timeout(5):
            await upstream.gone.wait()


async def test_a_cancelled_upload_closes_the_connection(client: HttpClient) -> None:
    async def source() -> AsyncGenerator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()

    async with serving(play) as upstream:
        task = asyncio.create_task(upload(client, upstream, source(), length=2))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await upstream.gone.wait()


async def test_the_connection_of_an_upload_serves_the_next_request(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK)

    async with serving(play) as upstream:
        await (await upload(client, upstream, pieces(b"a"), length=1)).read()
        reply = await client.request("GET", upstream.url(), headers={}, timeouts=Timeouts())
        await reply.read()
    assert upstream.connections == 1
