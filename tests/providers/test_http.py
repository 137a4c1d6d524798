"""The shared upstream client, against real sockets on loopback."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chat.errors import UpstreamError, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from providers import http
from providers.http import HttpClient, HttpReply, Timeouts, shared_client
from providers.outbound import OutboundGuard, OutboundPolicy

POLICY = OutboundPolicy.for_providers()
SHORT = 0.05
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Upstream:
    """A server on loopback whose every connection is played by `play`, and what it saw."""

    def __init__(self, play: Callable[[Upstream, Peer], Awaitable[None]]) -> None:
        self._play = play
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
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
        return whole

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def hung_up(self) -> None:
        """Wait until the client closes."""
        while await self._reader.read(65536):
            pass
        self._upstream.gone.set()


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


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(OutboundGuard(POLICY))
    yield made
    await made.aclose()


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
        while b"long" in await peer.request():
            await peer.send(CHUNKED)
            await go.wait()
            await peer.send(b"2\r\nok\r\n0\r\n\r\n")
        await peer.send(OK)
        await peer.hung_up()

    async with serving(play) as upstream:
        live = [await post(client, upstream.url(), body=b"long") for _ in range(20)]
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


# -- failures --------------------------------------------------------------------------------------


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
    async with serving(starting_with(CHUNKED + b"zz\r\nhello\r\n")) as upstream:
        reply = await post(client, upstream.url())
        assert isinstance(await failure(reply.read()), UpstreamUnreachable)


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


async def drip(upstream: Upstream, peer: Peer) -> None:
    await peer.request()
    await peer.send(CHUNKED)
    while True:
        await peer.send(b"1\r\nx\r\n")
        await asyncio.sleep(SHORT / 5)


async def test_a_slow_but_steady_body_is_bounded_by_the_total_only(client: HttpClient) -> None:
    async with serving(drip) as upstream:
        timeouts = Timeouts(idle=SHORT, total=SHORT * 5)
        reply = await post(client, upstream.url(), timeouts=timeouts)
        got = []
        with pytest.raises(UpstreamTimeout):
            while piece := await reply.next_bytes():
                got.append(piece)
        assert len(b"".join(got)) > SHORT / (SHORT / 5)


async def test_a_slow_reader_is_no_idle_upstream(client: HttpClient) -> None:
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"1\r\na\r\n")
        await asyncio.sleep(SHORT / 2)
        await peer.send(b"1\r\nb\r\n")
        await peer.send(b"1\r\nc\r\n0\r\n\r\n")
        await peer.hung_up()

    async with serving(play) as upstream:
        reply = await post(client, upstream.url(), timeouts=Timeouts(idle=SHORT))
        assert await reply.next_bytes() == b"a"
        assert (await reply.next_bytes())[:1] == b"b"
        await asyncio.sleep(SHORT * 4)
        assert b"".join([await reply.next_bytes(), await reply.next_bytes()]) in (b"c", b"")


# -- letting go ------------------------------------------------------------------------------------


async def test_cancelling_before_the_head_closes_the_upstream(client: HttpClient) -> None:
    async with serving(silent) as upstream:
        task = asyncio.create_task(post(client, upstream.url()))
        while not upstream.requests:
            await asyncio.sleep(0.001)
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
    assert first._session is None


def test_a_loop_closed_the_hard_way_is_forgotten_with_the_next() -> None:
    async def use() -> asyncio.AbstractEventLoop:
        shared_client(POLICY)
        return asyncio.get_running_loop()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()
    asyncio.run(use())
    assert loop not in http._shared


# -- proxies ---------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """`api.elsewhere` is a public name."""

    async def look_up(host: str) -> tuple[str, ...]:
        return {"api.elsewhere": ("8.8.8.8",)}.get(host, (host,))

    monkeypatch.setattr("providers.outbound._look_up", look_up)


@pytest.mark.usefixtures("elsewhere")
async def test_http_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(OK)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://u:p@127.0.0.1:{proxy.port}")
        client = HttpClient(OutboundGuard(POLICY))
        reply = await post(client, "http://api.elsewhere/v1")
        assert await reply.read() == b"ok"
        await client.aclose()
    assert proxy.requests[0].startswith(b"POST http://api.elsewhere/v1 HTTP/1.1\r\n")
    assert b"proxy-authorization: basic dtpw" in proxy.requests[0].lower()


@pytest.mark.usefixtures("elsewhere")
async def test_https_goes_through_a_tunnel_and_a_refusing_proxy_is_a_network_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(answering(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        client = HttpClient(OutboundGuard(POLICY))
        headers = {"authorization": "Bearer secret"}
        error = await failure(post(client, "https://api.elsewhere/v1", headers=headers))
        await client.aclose()
    assert kind(error) == ("network", False)
    assert proxy.requests[0].startswith(b"CONNECT api.elsewhere:443 HTTP/1.1\r\n")
    assert b"secret" not in proxy.requests[0]


# -- TLS -------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority of this test alone, and what it signs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        self.file = folder / "authority.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = self._sign(self._name, self._key.public_key(), constraints)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def serves(self, host: str) -> ssl.SSLContext:
        """A server's context with a certificate for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_general_name(host)])
        certificate = self._sign(x509.Name([]), key.public_key(), names)
        file = self._folder / "server.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1))
        builder = builder.not_valid_after(now + timedelta(days=1))
        return builder.add_extension(extension, critical=True).sign(self._key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


TRUSTING = """
import asyncio, sys
from chat.errors import UpstreamError
from providers.http import HttpClient, Timeouts
from providers.outbound import OutboundGuard, OutboundPolicy

async def main():
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    try:
        reply = await client.request("GET", sys.argv[1], headers={}, timeouts=Timeouts())
        print((await reply.read()).decode())
    except UpstreamError as error:
        print(error.kind, error.retryable)
    await client.aclose()

asyncio.run(main())
"""


async def trusting(authority: Authority, url: str) -> str:
    """What a process with SSL_CERT_FILE set makes of `url`: OpenSSL reads it once, at the start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        TRUSTING,
        url,
        env={"SSL_CERT_FILE": str(authority.file)},
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    output, _ = await process.communicate()
    return output.decode().strip()


async def test_a_certificate_nobody_vouches_for_is_refused(
    client: HttpClient, tmp_path: Path
) -> None:
    tls = Authority(tmp_path).serves("127.0.0.1")
    async with serving(answering(OK), tls=tls) as upstream:
        error = await failure(post(client, upstream.url(scheme="https")))
    assert kind(error) == ("tls", False)
    assert upstream.requests == []


async def test_an_authority_of_ssl_cert_file_is_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(answering(OK), tls=authority.serves("localhost")) as upstream:
        assert await trusting(authority, upstream.url("localhost", "https")) == "ok"


async def test_a_trusted_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(answering(OK), tls=authority.serves("example.com")) as upstream:
        assert await trusting(authority, upstream.url("localhost", "https")) == "tls False"
    assert upstream.requests == []


async def test_plain_http_where_tls_is_expected_is_a_tls_failure(client: HttpClient) -> None:
    async with serving(starting_with(OK)) as upstream:
        error = await failure(post(client, upstream.url(scheme="https")))
    assert error.kind in ("tls", "network")
