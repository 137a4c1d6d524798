"""Proxies and TLS of the shared upstream client."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from tests.providers.raw_upstream import (
    OK,
    Peer,
    Upstream,
    answering,
    failure,
    kind,
    post,
    serving,
)

POLICY = OutboundPolicy.for_providers()


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


async def trusting(authority: Authority, url: str, *, proxy: str = "") -> str:
    """What a process with SSL_CERT_FILE set makes of `url`: OpenSSL reads it once, at the start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        TRUSTING,
        url,
        env={"SSL_CERT_FILE": str(authority.file), "HTTPS_PROXY": proxy},
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
    async def play(upstream: Upstream, peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(play) as upstream:
        error = await failure(post(client, upstream.url(scheme="https")))
    assert kind(error) == ("tls", False)


async def test_tls_through_a_proxy_is_with_the_upstream_itself(tmp_path: Path) -> None:
    """Nobody here knows the name: a provider's is left to the proxy, its certificate is not."""
    authority = Authority(tmp_path)

    async def tunnel(proxy: Upstream, peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        await peer.bridge_to(upstream.port)

    async with (
        serving(answering(OK), tls=authority.serves("api.invalid")) as upstream,
        serving(tunnel) as proxy,
    ):
        through = f"http://127.0.0.1:{proxy.port}"
        assert await trusting(authority, "https://api.invalid/v1", proxy=through) == "ok"
        assert await trusting(authority, "https://other.invalid/", proxy=through) == "tls False"
    assert proxy.requests[0].startswith(b"CONNECT api.invalid:443 HTTP/1.1\r\n")
    assert len(upstream.requests) == 1
