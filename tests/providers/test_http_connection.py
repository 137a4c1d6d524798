"""HTTP/1.1 as the shared upstream client speaks it, down to what servers do wrong."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from chat.errors import UpstreamTimeout
from providers import http_connecting, http_connection
from providers.http import HttpClient, Timeouts
from providers.http_connection import Connection
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

HEAD = b"HTTP/1.1 200 OK\r\n"
PACKED = gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0)


async def whole(client: HttpClient, answer: bytes) -> bytes:
    """What the client makes of an answer after which the upstream hangs up."""

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    async with serving(play) as upstream:
        return await (await post(client, upstream.url())).read()


# -- where a message ends --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (HEAD + b"\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-t: 1\r\n\r\n", b"a"),
        (b"HTTP/1.1 204 N\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 H\r\nlink: a\r\n\r\n" + OK, b"ok"),
        (OK + b"and more", b"ok"),
        (OK + OK, b"ok"),
    ],
)
async def test_a_body_ends_where_its_head_says(
    answer: bytes, body: bytes, client: HttpClient
) -> None:
    assert await whole(client, answer) == body


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        HEAD + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok",
        HEAD + b"x: " + b"a" * 300_000,
        HEAD + b"content-encoding: br\r\ncontent-length: 2\r\n\r\nok",
    ],
)
async def test_a_head_nobody_can_trust_is_a_protocol_failure(
    answer: bytes, client: HttpClient
) -> None:
    assert kind(await failure(whole(client, answer))) == ("protocol", False)


async def test_a_trailer_without_end_breaks_the_body(client: HttpClient) -> None:
    trailer = CHUNKED + b"0\r\nx: " + b"a" * 300_000
    assert kind(await failure(whole(client, trailer))) == ("network", False)


async def test_what_came_before_the_break_is_given_away(client: HttpClient) -> None:
    async with serving(starting_with(CHUNKED + b"2\r\nab\r\nzz\r\n")) as upstream:
        reply = await post(client, upstream.url())
        assert await reply.next_bytes() == b"ab"
        assert kind(await failure(reply.next_bytes())) == ("network", False)
        assert kind(await failure(reply.next_bytes())) == ("network", False)


async def test_a_head_request_waits_for_no_body(client: HttpClient) -> None:
    async with serving(starting_with(HEAD + b"content-length: 9\r\n\r\n")) as upstream:
        reply = await client.request("HEAD", upstream.url(), headers={}, timeouts=Timeouts())
        assert (await reply.read(), reply.headers.get("Content-Length")) == (b"", "9")


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", PACKED),
        ("deflate", zlib.compress(b"onetwo")),
        ("deflate", zlib.compress(b"onetwo")[2:-4]),
        ("identity", b"onetwo"),
    ],
)
async def test_bodies_are_decoded(encoding: str, packed: bytes, client: HttpClient) -> None:
    head = HEAD + f"content-encoding: {encoding}\r\n\r\n".encode()
    assert await whole(client, head + packed) == b"onetwo"


@pytest.mark.parametrize("packed", [PACKED[:-3], b"\x1f\x8bnothing of the kind"])
async def test_a_compressed_body_that_is_cut_off_or_none_is_broken(
    packed: bytes, client: HttpClient
) -> None:
    head = HEAD + b"content-encoding: gzip\r\n\r\n"
    assert kind(await failure(whole(client, head + packed))) == ("network", False)


# -- what goes out ---------------------------------------------------------------------------------


async def test_a_long_body_arrives_whole(client: HttpClient) -> None:
    body = b"x" * 3_000_000

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.hung_up()

    async with serving(play) as upstream:
        await (await post(client, upstream.url(), body=body)).read()
    assert upstream.requests[0].endswith(b"\r\n\r\n" + body)


async def test_a_caller_cannot_frame_the_message_itself(client: HttpClient) -> None:
    headers = {"Content-Length": "0", "Transfer-Encoding": "chunked", "Host": "elsewhere", "X": "é"}
    async with serving(answering(OK)) as upstream:
        await (await post(client, upstream.url(), body=b"four", headers=headers)).read()
    head = upstream.requests[0].lower()
    assert (head.count(b"content-length: "), head.count(b"host: ")) == (1, 1)
    assert b"transfer-encoding" not in head
    assert b"x: \xc3\xa9\r\n" in head


@pytest.mark.parametrize("name", ["a b", "a\r\nb", "a:b", "", "ä"])
async def test_a_header_name_that_is_none_is_refused(name: str, client: HttpClient) -> None:
    async with serving(answering(OK)) as upstream:
        error = await failure(post(client, upstream.url(), headers={name: "1"}))
    assert kind(error) == ("protocol", False)
    assert upstream.connections == 0


# -- connections that are used again ---------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    ],
)
async def test_some_answers_end_their_connection(answer: bytes, client: HttpClient) -> None:
    async with serving(answering(answer)) as upstream:
        for _ in range(2):
            assert await (await post(client, upstream.url())).read() == b"ok"
    assert upstream.connections == 2


async def test_an_answer_nobody_asked_for_is_not_the_next_ones(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(0.01)
        await peer.send(b"HTTP/1.1 408 Too slow\r\ncontent-length: 0\r\n\r\n")
        await peer.hung_up()

    async with serving(play) as upstream:
        await (await post(client, upstream.url())).read()
        await asyncio.wait_for(upstream.gone.wait(), 1)
        assert (await post(client, upstream.url())).status == 200
    assert upstream.connections == 2


async def test_an_idle_connection_is_closed_after_a_while(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "KEEPALIVE_S", 0.05)

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.hung_up()

    async with serving(play) as upstream:
        await (await post(client, upstream.url())).read()
        await asyncio.wait_for(upstream.gone.wait(), 1)


async def test_a_get_whose_kept_connection_had_ended_is_sent_once_more(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if upstream.connections == 1:
            await peer.request()  # read, and then hung up on
            return
        await peer.hung_up()

    async def get(url: str) -> bytes:
        return await (await client.request("GET", url, headers={}, timeouts=Timeouts())).read()

    async with serving(play) as upstream:
        assert [await get(upstream.url()) for _ in range(2)] == [b"ok", b"ok"]
    assert (upstream.connections, len(upstream.requests)) == (2, 3)


async def test_a_closed_reply_reads_nothing_of_the_next_one(client: HttpClient) -> None:
    answered = asyncio.Event()

    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await answered.wait()
        await peer.send(b"3\r\none\r\n0\r\n\r\n")
        await peer.request()
        await peer.send(OK)
        await peer.hung_up()

    async with serving(play) as upstream:
        first = await post(client, upstream.url())
        waiting = asyncio.create_task(first.next_bytes())
        await asyncio.sleep(0.01)
        answered.set()
        connection = first._connection
        assert connection is not None
        while not connection.complete:  # noqa: ASYNC110 - the reader must not have run since
            await asyncio.sleep(0)
        first.close()
        second = await post(client, upstream.url())
        assert (await waiting, await second.read()) == (b"", b"ok")
    assert upstream.connections == 1


async def test_the_times_of_one_request_do_not_hold_for_the_next(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.hung_up()

    async with serving(play) as upstream:
        await (await post(client, upstream.url())).read()
        short = Timeouts(first_byte=0.05)
        assert isinstance(
            await failure(post(client, upstream.url(), timeouts=short)), UpstreamTimeout
        )
    assert upstream.connections == 1


# -- holding back ----------------------------------------------------------------------------------


async def test_a_reader_that_does_not_read_holds_its_upstream_back(client: HttpClient) -> None:
    size, sent = 64 * 1024 * 1024, 0

    async def play(upstream: Upstream, peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(HEAD + b"content-length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            await peer.send(b"x" * 65536)
            sent += 65536
        await peer.hung_up()

    async with serving(play) as upstream:
        reply = await post(client, upstream.url())
        await asyncio.sleep(0.2)
        assert sent < size // 2
        total = 0
        while piece := await reply.next_bytes():
            assert len(piece) < 2_000_000
            total += len(piece)
    assert total == size


async def test_an_address_that_is_silent_does_not_hold_up_the_next(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(host: str) -> tuple[str, ...]:
        return ("127.0.0.9", "127.0.0.1")

    async def dial(address: str, *rest: object, **more: object) -> object:
        if address == "127.0.0.9":
            await asyncio.Event().wait()
        return await true_dial(address, *rest, **more)  # type: ignore[arg-type]

    true_dial = http_connecting._dial
    monkeypatch.setattr("providers.outbound._look_up", look_up)
    monkeypatch.setattr(http_connecting, "_dial", dial)
    monkeypatch.setattr(http_connecting, "_STAGGER_S", 0.01)
    async with serving(answering(OK)) as upstream:
        reply = await post(client, upstream.url("two.invalid"))
        assert await reply.read() == b"ok"


async def test_an_upstream_that_hangs_up_on_everybody_is_a_network_failure(
    client: HttpClient,
) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        """Accept, and no more."""

    async with serving(play) as upstream:
        for _ in range(20):
            assert kind(await failure(post(client, upstream.url()))) == ("network", True)


async def test_a_connection_lost_before_it_is_used_takes_no_request() -> None:
    loop = asyncio.get_running_loop()
    connection = Connection(loop, stands=lambda _: None, lost=lambda _: None)
    async with serving(silent) as upstream:
        await loop.create_connection(lambda: connection, "127.0.0.1", upstream.port)
        connection.close()
        later = loop.time() + 5
        connection.send(b"GET", None, bodiless=False, due=later, deadline=later)
        assert kind(await failure(connection.head())) == ("network", True)


async def test_closing_the_client_ends_what_waits_for_a_head() -> None:
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    async with serving(silent) as upstream:
        waiting = asyncio.create_task(post(client, upstream.url()))
        await upstream.asked.wait()
        await client.aclose()
        assert (await failure(waiting)).kind == "network"
        await asyncio.wait_for(upstream.gone.wait(), 1)
