"""The shared upstream client, against real sockets on loopback."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from chat.errors import UpstreamFailed
from providers import http
from providers.http import HttpClient, Timeouts, shared_client
from providers.outbound import OutboundGuard, OutboundPolicy
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

POLICY = OutboundPolicy.for_providers()


# -- the answer ------------------------------------------------------------------------------------


async def test_the_reply_carries_status_headers_and_body(client: HttpClient) -> None:
    answer = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\ncontent-length: 4\r\n\r\nwait"
    async with serving(answering(answer)) as upstream:
        reply = await post(client, upstream.url())
        assert (reply.status, reply.headers.get("retry-after")) == (429, "7")
        assert reply.headers.get("x-none") is None
        assert await reply.read() == b"wait"


async def test_the_request_goes_out_as_it_was_given(client: HttpClient) -> None:
    async with serving(answering(OK)) as upstream:
        headers = {"Authorization": "Bearer a", "Content-Type": "application/json"}
        reply = await post(client, upstream.url(), body=b'{"a": 1}', headers=headers)
        await reply.read()
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /v1/chat http/1.1"
    assert body == b'{"a": 1}'
    assert b"authorization: bearer a" in lines
    assert b"accept-encoding: identity" in lines
    assert b"content-length: 8" in lines
    assert b"user-agent: abstractcore-server" in lines
    assert sum(line.startswith(b"content-type:") for line in lines) == 1


async def test_a_request_without_a_body_claims_no_content_type(client: HttpClient) -> None:
    async with serving(answering(OK)) as upstream:
        reply = await client.request("GET", upstream.url(), headers={}, timeouts=Timeouts())
        await reply.read()
    assert b"content-type" not in upstream.requests[0].lower()


async def test_the_head_comes_before_any_of_the_body(client: HttpClient) -> None:
    async with serving(starting_with(CHUNKED)) as upstream:
        reply = await post(client, upstream.url(), timeouts=Timeouts(first_byte=5.0))
        assert reply.status == 200
        reply.close()


async def test_pieces_come_as_they_arrive_and_end_with_nothing(client: HttpClient) -> None:
    received = asyncio.Event()

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"3\r\none\r\n")
        await received.wait()
        await peer.send(b"3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n")
        await peer.hung_up()

    async with serving(play) as upstream:
        reply = await post(client, upstream.url())
        assert await reply.next_bytes() == b"one"
        received.set()
        rest = b"".join([await reply.next_bytes(), await reply.next_bytes()])
        assert rest == b"twothree"
        assert await reply.next_bytes() == b""
        assert await reply.next_bytes() == b""


async def test_a_compressed_answer_is_decoded_although_none_was_asked_for(
    client: HttpClient,
) -> None:
    packed = gzip.compress(b"hello " * 1000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    async with serving(answering(head + packed)) as upstream:
        assert await (await post(client, upstream.url())).read() == b"hello " * 1000


async def test_a_redirect_is_an_answer_and_is_not_followed(client: HttpClient) -> None:
    answer = b"HTTP/1.1 302 F\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(answer)) as upstream:
        reply = await post(client, upstream.url())
        assert (reply.status, await reply.read()) == (302, b"")
    assert len(upstream.requests) == 1


async def test_cookies_of_one_answer_are_not_sent_with_the_next_request(client: HttpClient) -> None:
    answer = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(answer)) as upstream:
        for _ in range(2):
            await (await post(client, upstream.url("localhost"))).read()
    assert b"cookie" not in upstream.requests[1].lower()


async def test_a_body_over_the_limit_is_a_failed_upstream_and_closes_it(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        while True:
            await peer.send(b"400\r\n" + b"x" * 1024 + b"\r\n")

    async with serving(play) as upstream:
        reply = await post(client, upstream.url())
        with pytest.raises(UpstreamFailed):
            await reply.read(limit=10_000)
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_a_small_body_that_unpacks_to_a_huge_one_meets_the_limit(client: HttpClient) -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    async with serving(answering(head + packed)) as upstream:
        with pytest.raises(UpstreamFailed):
            await (await post(client, upstream.url())).read(limit=1_000_000)


# -- connections -----------------------------------------------------------------------------------


async def test_a_connection_is_used_again(client: HttpClient) -> None:
    async with serving(answering(OK)) as upstream:
        for _ in range(5):
            await (await post(client, upstream.url())).read()
    assert upstream.connections == 1


async def test_a_connection_closed_while_idle_costs_no_error_and_no_second_request(
    client: HttpClient,
) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with serving(play) as upstream:
        for n in range(20):
            reply = await post(client, upstream.url(), body=b"%d" % n)
            assert await reply.read() == b"ok"
            await asyncio.sleep(0.005)
    bodies = [request.rpartition(b"\r\n\r\n")[2] for request in upstream.requests]
    assert bodies == [b"%d" % n for n in range(20)]


async def test_a_post_that_may_have_been_processed_is_not_sent_again(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()  # read, and then hung up on

    async with serving(play) as upstream:
        await (await post(client, upstream.url())).read()
        error = await failure(post(client, upstream.url()))
    assert kind(error) == ("network", True)
    assert len(upstream.requests) == 2


async def test_hundreds_of_streams_run_at_once(client: HttpClient) -> None:
    everybody = asyncio.Event()

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        if upstream.connections == 300:
            everybody.set()
        await everybody.wait()
        await peer.send(CHUNKED + b"2\r\nok\r\n0\r\n\r\n")
        await peer.hung_up()

    async def stream(url: str) -> bytes:
        return await (await post(client, url)).read()

    async with serving(play) as upstream:
        answers = await asyncio.gather(*(stream(upstream.url()) for _ in range(300)))
    assert set(answers) == {b"ok"}


async def test_other_credentials_disturb_no_live_stream(client: HttpClient) -> None:
    """M4: an evicted or rotated key closes no connection in use."""
    go = asyncio.Event()

    async def play(upstream: Upstream, peer: Peer) -> None:
        while True:
            if b"live" not in await peer.request():
                await peer.send(OK)
                continue
            await peer.send(CHUNKED)
            await go.wait()
            await peer.send(b"2\r\nok\r\n0\r\n\r\n")

    async with serving(play) as upstream:
        live = [await post(client, upstream.url(), body=b"live") for _ in range(20)]
        for n in range(20):
            key = {"authorization": f"Bearer {n}"}
            await (await post(client, upstream.url(), headers=key)).read()
        go.set()
        assert [await reply.read() for reply in live] == [b"ok"] * 20


async def test_a_host_is_reached_only_at_the_checked_address(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(host: str) -> tuple[str, ...]:
        assert host == "pinned.invalid"  # resolves nowhere else
        return ("127.0.0.1",)

    monkeypatch.setattr("providers.outbound._look_up", look_up)
    async with serving(answering(OK)) as upstream:
        reply = await post(client, upstream.url("pinned.invalid"))
        assert await reply.read() == b"ok"
    assert f"host: pinned.invalid:{upstream.port}".encode() in upstream.requests[0].lower()


async def test_a_name_that_changes_its_address_after_the_check_is_not_followed(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([("127.0.0.1",), ("127.0.0.2",)])

    async def look_up(host: str) -> tuple[str, ...]:
        return next(answers)

    monkeypatch.setattr("providers.outbound._look_up", look_up)
    async with serving(answering(OK)) as upstream:
        await (await post(client, upstream.url("rebound.invalid"))).read()
    assert next(answers) == ("127.0.0.2",)


async def test_the_next_checked_address_is_tried_when_the_first_refuses(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(host: str) -> tuple[str, ...]:
        return ("::1", "127.0.0.1")

    monkeypatch.setattr("providers.outbound._look_up", look_up)
    async with serving(answering(OK)) as upstream:
        assert await (await post(client, upstream.url("localhost"))).read() == b"ok"


async def test_a_refused_address_is_never_connected_to(client: HttpClient) -> None:
    strict = HttpClient(OutboundGuard(OutboundPolicy.for_tools()))
    async with serving(answering(OK)) as upstream:
        error = await failure(post(strict, upstream.url()))
    assert kind(error) == ("outbound", False)
    assert upstream.connections == 0


# -- letting go ------------------------------------------------------------------------------------


async def test_cancelling_before_the_head_closes_the_upstream(client: HttpClient) -> None:
    async with serving(silent) as upstream:
        task = asyncio.create_task(post(client, upstream.url()))
        await upstream.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_cancelling_a_read_closes_the_upstream(client: HttpClient) -> None:
    async with serving(starting_with(CHUNKED + b"2\r\nab\r\n")) as upstream:
        reply = await post(client, upstream.url())
        await reply.next_bytes()
        task = asyncio.create_task(reply.next_bytes())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_closing_an_unread_body_closes_the_upstream(client: HttpClient) -> None:
    async with serving(starting_with(CHUNKED + b"2\r\nab\r\n")) as upstream:
        reply = await post(client, upstream.url())
        reply.close()
        reply.close()
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_closing_a_body_read_to_its_end_keeps_the_connection(client: HttpClient) -> None:
    async with serving(answering(OK)) as upstream:
        for _ in range(3):
            reply = await post(client, upstream.url())
            await reply.read()
            reply.close()
    assert upstream.connections == 1


async def test_closing_under_a_waiting_reader_ends_its_wait(client: HttpClient) -> None:
    async with serving(starting_with(CHUNKED)) as upstream:
        reply = await post(client, upstream.url())
        waiting = asyncio.create_task(reply.next_bytes())
        await asyncio.sleep(0.01)
        reply.close()
        assert (await failure(waiting)).kind == "network"


async def test_a_closed_client_refuses_requests(client: HttpClient) -> None:
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await post(client, "http://127.0.0.1:9/")


# -- one client a loop -----------------------------------------------------------------------------


async def test_a_loop_shares_one_client_for_a_policy() -> None:
    assert shared_client(POLICY) is shared_client(OutboundPolicy.for_providers())
    assert shared_client(POLICY) is not shared_client(OutboundPolicy.for_tools())


def test_the_shared_client_ends_with_its_loop() -> None:
    async def use() -> tuple[HttpClient, asyncio.AbstractEventLoop]:
        client = shared_client(POLICY)
        async with serving(answering(OK)) as upstream:
            await (await post(client, upstream.url())).read()
        return client, asyncio.get_running_loop()

    (first, loop), (second, _) = asyncio.run(use()), asyncio.run(use())
    assert first is not second
    assert loop not in http._shared
    assert first._closed


def test_a_loop_closed_the_hard_way_is_forgotten_with_the_next() -> None:
    async def use() -> asyncio.AbstractEventLoop:
        shared_client(POLICY)
        return asyncio.get_running_loop()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
    asyncio.run(use())
    assert loop not in http._shared
