"""How the upstream HTTP client comes by a connection: checked addresses, proxies, TLS."""

from __future__ import annotations

import asyncio
import base64
import logging
import math
import ssl
from collections.abc import Callable, Coroutine
from functools import lru_cache

from yarl import URL

from chat.errors import UpstreamError, UpstreamTimeout
from providers.http_connection import Connection
from providers.http_failures import unreachable
from providers.outbound import CheckedTarget

logger = logging.getLogger(__name__)

_STAGGER_S = 0.25
"""So long an address may be silent before the next is tried beside it (RFC 8305)."""


async def connect(
    target: CheckedTarget, *, timeout_s: float, make: Callable[[], Connection]
) -> Connection:
    """A new connection to `target`, TLS included where it has any, within `timeout_s` seconds.

    Raises UpstreamTimeout and UpstreamUnreachable (kinds network, dns, tls, protocol).
    """
    connecting = _to_upstream if target.proxy is None else _through_proxy
    try:
        async with asyncio.timeout(timeout_s):
            return await connecting(target, make=make)
    except (OSError, UnicodeError) as error:  # a name that IDNA cannot hold is a UnicodeError
        logger.info("%s:%d failed: %s", target.host, target.port, type(error).__name__)
        raise _failure(error) from None


def proxy_authorization(proxy: URL) -> str | None:
    """The value of the header `Proxy-Authorization`, when the proxy's URL has a user in it."""
    if proxy.user is None:
        return None
    return "Basic " + base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()


def _failure(error: Exception) -> UpstreamError:
    match error:
        case ssl.SSLError() | ssl.CertificateError():
            return unreachable("TLS with the upstream failed", kind="tls", retryable=False)
        case TimeoutError():
            return UpstreamTimeout("Connecting to the upstream took too long.", retryable=True)
    return unreachable("The upstream cannot be reached", retryable=True)


async def _to_upstream(target: CheckedTarget, *, make: Callable[[], Connection]) -> Connection:
    async def to_address(address: str) -> Connection:
        connection = await _dial(
            address, target.port, make=make, server_name=_server_name(target.scheme, target.host)
        )
        connection.address = address
        return connection

    if len(target.addresses) == 1:
        return await to_address(target.addresses[0])
    return await _first(to_address, target.addresses)


async def _first(
    dial: Callable[[str], Coroutine[None, None, Connection]], addresses: tuple[str, ...]
) -> Connection:
    """The first connection that stands, the addresses tried in turn and then side by side."""
    waiting = list(reversed(addresses))
    racing: set[asyncio.Task[Connection]] = set()
    failures: list[BaseException] = []
    try:
        while waiting or racing:
            if waiting:
                racing.add(asyncio.create_task(dial(waiting.pop())))
            done, racing = await asyncio.wait(
                racing,
                timeout=_STAGGER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            failures += [error for task in done if (error := task.exception()) is not None]
            standing = [task.result() for task in done if task.exception() is None]
            for late in standing[1:]:
                late.close()
            if standing:
                return standing[0]
    finally:
        for task in racing:
            task.add_done_callback(_discard)
            task.cancel()
    raise next((each for each in failures if isinstance(each, ssl.SSLError)), failures[-1])


def _discard(task: asyncio.Task[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _through_proxy(target: CheckedTarget, *, make: Callable[[], Connection]) -> Connection:
    proxy = target.proxy
    if proxy is None or proxy.host is None or proxy.port is None:
        raise OSError("the proxy has no address")
    if proxy.scheme not in ("http", "https"):
        raise unreachable("The proxy is none for HTTP", retryable=False)
    connection = await _dial(
        proxy.host, proxy.port, make=make, server_name=_server_name(proxy.scheme, proxy.host)
    )
    if target.scheme == "http":
        return connection
    try:
        return await _through_tunnel(connection, target, make=make)
    except BaseException:
        connection.close()
        raise


async def _through_tunnel(
    tunnel: Connection, target: CheckedTarget, *, make: Callable[[], Connection]
) -> Connection:
    tunnel.send(_connect_head(target), None, bodiless=True, due=math.inf, deadline=math.inf)
    await tunnel.head()
    if not 200 <= tunnel.status < 300:
        raise unreachable("The proxy refused", retryable=False)
    loop = asyncio.get_running_loop()
    connection = make()
    transport = await loop.start_tls(
        tunnel.hand_over(), connection, _tls(), server_hostname=target.host
    )
    if transport is None:
        raise ConnectionResetError
    connection.connection_made(transport)
    return connection


def _connect_head(target: CheckedTarget) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    authority = f"{host}:{target.port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    credentials = proxy_authorization(target.proxy) if target.proxy is not None else None
    if credentials is not None:
        lines.append(f"Proxy-Authorization: {credentials}")
    return "\r\n".join([*lines, "", ""]).encode()


def _server_name(scheme: str, host: str) -> str | None:
    return host if scheme == "https" else None


async def _dial(
    host: str, port: int, *, make: Callable[[], Connection], server_name: str | None
) -> Connection:
    tls = _tls() if server_name is not None else None
    _, connection = await asyncio.get_running_loop().create_connection(
        make, host, port, ssl=tls, server_hostname=server_name
    )
    return connection


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
