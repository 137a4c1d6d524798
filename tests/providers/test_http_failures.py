"""What the shared upstream client makes of upstreams that fail."""

from __future__ import annotations

import asyncio

import pytest

from chat.errors import UpstreamTimeout
from providers.http import HttpClient, Timeouts
from tests.providers.raw_upstream import (
    CHUNKED,
    OK,
    Peer,
    Upstream,
    answering,
    failure,
    kind,
    post,
    serving,
    silent,
    starting_with,
)

SHORT = 0.2


async def test_a_refused_connection_is_a_network_failure_worth_a_retry(client: HttpClient) -> None:
    async with serving(answering(OK)) as upstream:
        pass
    error = await failure(post(client, upstream.url()))
    assert kind(error) == ("network", True)
    assert "127.0.0.1" not in error.message


async def test_something_that_is_not_http_is_a_protocol_failure(client: HttpClient) -> None:
    async with serving(starting_with(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")) as upstream:
        error = await failure(post(client, upstream.url()))
    assert kind(error) == ("protocol", False)


@pytest.mark.parametrize("secret", ["sk-1\r\nx-evil: 1", "sk-1\n", "sk-\0"])
async def test_a_credential_that_no_header_can_carry_is_refused_and_not_shown(
    secret: str, client: HttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(answering(OK)) as upstream:
        headers = {"authorization": f"Bearer {secret}"}
        error = await failure(post(client, upstream.url(), headers=headers))
    assert kind(error) == ("protocol", False)
    assert "sk-" not in error.message + caplog.text
    assert error.__cause__ is None


@pytest.mark.parametrize(
    "broken",
    [CHUNKED + b"5\r\nhel", b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhel"],
)
async def test_a_connection_that_breaks_mid_body_is_a_network_failure(
    broken: bytes, client: HttpClient
) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(broken)

    async with serving(play) as upstream:
        reply = await post(client, upstream.url())
        error = await failure(reply.read())
    assert kind(error) == ("network", False)


async def test_chunks_that_are_no_chunks_break_the_body(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"2\r\nab\r\n")
        await asyncio.sleep(0.01)
        await peer.send(b"zz\r\nhello\r\n")
        await peer.hung_up()

    async with serving(play) as upstream:
        reply = await post(client, upstream.url())
        assert await reply.next_bytes() == b"ab"
        assert kind(await failure(reply.read())) == ("network", False)


async def test_a_head_that_does_not_come_in_time_is_a_timeout(client: HttpClient) -> None:
    async with serving(silent) as upstream:
        error = await failure(post(client, upstream.url(), timeouts=Timeouts(first_byte=SHORT)))
        assert isinstance(error, UpstreamTimeout)
        assert kind(error) == ("timeout", True)
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_a_body_that_stalls_is_a_timeout(client: HttpClient) -> None:
    async with serving(starting_with(CHUNKED + b"2\r\nab\r\n")) as upstream:
        reply = await post(client, upstream.url(), timeouts=Timeouts(idle=SHORT))
        assert await reply.next_bytes() == b"ab"
        error = await failure(reply.next_bytes())
        assert isinstance(error, UpstreamTimeout)
        assert not error.retryable
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_a_body_without_end_is_bounded_by_the_total(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        while True:
            await peer.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    async with serving(play) as upstream:
        reply = await post(client, upstream.url(), timeouts=Timeouts(total=SHORT))
        error = await failure(reply.read())
        assert isinstance(error, UpstreamTimeout)
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_the_idle_time_starts_anew_with_every_piece(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(10):
            await asyncio.sleep(0.08)
            await peer.send(b"1\r\nx\r\n")
        await peer.send(b"0\r\n\r\n")
        await peer.hung_up()

    async with serving(play) as upstream:
        reply = await post(client, upstream.url(), timeouts=Timeouts(idle=0.6))
        assert await reply.read() == b"x" * 10


async def test_a_slow_reader_is_no_idle_upstream(client: HttpClient) -> None:
    go = asyncio.Event()

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await go.wait()
        await peer.send(b"1\r\na\r\n")
        await peer.request()
        await peer.hung_up()

    async with serving(play) as upstream:
        reply = await post(client, upstream.url(), timeouts=Timeouts(idle=SHORT))
        waiting = asyncio.create_task(reply.next_bytes())
        await asyncio.sleep(0)
        go.set()
        assert await waiting == b"a"
        await asyncio.sleep(SHORT * 3)
        assert not upstream.gone.is_set()
        reply.close()
