"""The outbound guard: where this gateway may connect to, decided once for every way out.

A URL is parsed strictly here and rebuilt from its parts, its name is resolved once, *every* address
it has must be permitted, and the client connects to those addresses and to no others. Four public
gateways patched this one after the other (redirects, `0.0.0.0`, names resolved twice, two parsers
that disagreed: CVE-2025-59146, CVE-2025-62155, CVE-2026-33655, CVE-2026-45400), hence one place.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import time
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeVar
from urllib.request import getproxies_environment, proxy_bypass

from yarl import URL

from chat.errors import UpstreamUnreachable

logger = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
T = TypeVar("T")

FRESH_S = 30.0
"""So long a checked name, and a URL with it, is remembered: 60 s at most after the look-up."""

_RESOLVE_S = 5.0
_REMEMBERED = 4096


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ip_network(text) for text in texts)


# What no setting opens: listing 0.0.0.0/0 or fd00::/8 must not open a cloud's metadata service.
_NEVER = _networks(
    "0.0.0.0/8",  # "this host": Linux connects 0.0.0.0 to loopback
    "169.254.0.0/16",  # link-local, metadata of AWS, GCP, Azure
    "100.100.100.200/32",  # metadata of Alibaba Cloud
    "168.63.129.16/32",  # wire server of Azure, a public address
    "192.0.0.192/32",  # metadata of Oracle Cloud
    "224.0.0.0/4",
    "240.0.0.0/4",  # reserved, and the broadcast address
    "::/128",
    "::ffff:0:0/96",  # IPv4-mapped
    "::ffff:0:0:0/96",  # IPv4-translated
    "fe80::/10",
    "fd00:ec2::/32",  # metadata of AWS on IPv6
    "ff00::/8",
)
_LOOPBACK = _networks("127.0.0.0/8", "::1/128")
# IANA special-purpose registries, RFC 6890: not (or not reliably) on the public internet.
_SPECIAL = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001::/23",  # Teredo, ORCHID, benchmarking
    "2001:db8::/32",
    "2002::/16",  # 6to4: carries any IPv4 address, private ones too
    "3fff::/20",
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z_](?:[0-9a-z_.-]*[0-9a-z_])?))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>(?:[/?][^\s\\#\x00-\x1f\x7f]*)?)(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def parse_networks(text: str) -> tuple[Network, ...]:
    """`"10.0.0.0/8, fd00::/8"` as networks; empty text is none. Raises ValueError."""
    return tuple(_parse_network(part.strip()) for part in text.split(",") if part.strip())


def _parse_network(text: str) -> Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a network: write it like 10.0.0.0/8 or fd00::/8 ({error})."
        ) from None


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """Which addresses may be reached: public ones, `allow`, and loopback when it says so."""

    allow: tuple[Network, ...] = ()
    allow_loopback: bool = False
    proxy_resolves: bool = False
    """A name unknown here may be left to the configured proxy (networks without public DNS)."""

    @classmethod
    def for_providers(cls, networks: tuple[Network, ...] = ()) -> OutboundPolicy:
        """Upstreams are chosen by operators: loopback is open, a proxy may know more names."""
        return cls(allow=networks, allow_loopback=True, proxy_resolves=True)

    @classmethod
    def for_tools(cls, networks: tuple[Network, ...] = ()) -> OutboundPolicy:
        """Tools, MCP servers and content by URL: addresses a caller or a model may have chosen."""
        return cls(allow=networks)

    def permits(self, address: Address) -> bool:
        """Whether a connection to this address may be made."""
        if _within(address, _NEVER):
            return False
        if isinstance(address, IPv6Address) and address in _NAT64:
            return self.permits(IPv4Address(int(address) & 0xFFFFFFFF))
        if _within(address, self.allow):
            return True
        if _within(address, _LOOPBACK):
            return self.allow_loopback
        return _is_public(address)


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _is_public(address: Address) -> bool:
    # Not `is_global`: it changed between patch releases of Python 3.11 (6to4, 64:ff9b:1::/48).
    if isinstance(address, IPv6Address) and address not in _PUBLIC_V6:
        return False
    return not _within(address, _SPECIAL)


@dataclass(frozen=True, slots=True)
class CheckedTarget:
    """A URL that may be fetched: the client gets `url` as it stands here, rebuilt and checked."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]
    """Every address of the host, all checked, in the resolver's order; empty when only the proxy
    knows the name."""
    url: URL
    proxy: URL | None
    heads: dict[tuple[str, tuple[tuple[str, str], ...]], bytes] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Request heads already built for this target (`http_request`)."""

    @property
    def address(self) -> str | None:
        """The address that is tried first."""
        return self.addresses[0] if self.addresses else None


class OutboundGuard:
    """Checks URLs and resolves names for one event loop, remembering the answers."""

    def __init__(self, policy: OutboundPolicy) -> None:
        self.policy = policy
        self._proxies = _proxies_of_environment()
        self._targets: dict[str, tuple[float, CheckedTarget]] = {}
        self._hosts: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._resolving: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def check(self, url: str) -> CheckedTarget:
        """The target of `url`, ready to connect to.

        Raises UpstreamUnreachable: `kind` outbound when the URL or one of its addresses is refused,
        dns when the name has no address.
        """
        known = self._targets.get(url)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        scheme, host, port, parsed = parse_url(url)
        proxy = self._proxy_for(scheme, host, port=port)
        addresses = await self._addresses_or_none(host, proxied=proxy is not None)
        if addresses and all(_within(ip_address(each), _LOOPBACK) for each in addresses):
            proxy = None  # the proxy's loopback is another machine's
        target = CheckedTarget(scheme, host, port, addresses, parsed, proxy)
        _remember(self._targets, url, target)
        return target

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Every address of a host name, all permitted. Raises as `check` does."""
        known = self._hosts.get(host)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        task = self._resolving.get(host)
        if task is None:  # one look-up however many requests wait for it
            task = self._resolving[host] = asyncio.create_task(self._resolve(host))
            task.add_done_callback(lambda done: self._resolved(host, done))
        return await asyncio.shield(task)

    async def _addresses_or_none(self, host: str, *, proxied: bool) -> tuple[str, ...]:
        try:
            return await self.addresses(host)
        except UpstreamUnreachable as error:
            if error.kind == "dns" and proxied and self.policy.proxy_resolves:
                return ()
            raise

    async def _resolve(self, host: str) -> tuple[str, ...]:
        found = await _look_up(host)
        for text in found:
            if not self.policy.permits(ip_address(text.partition("%")[0])):
                logger.info("outbound: %s refused, %s is not permitted", host, text)
                raise _refused("its address is in a network that is closed to this gateway")
        _remember(self._hosts, host, found)
        return found

    def _resolved(self, host: str, task: asyncio.Task[tuple[str, ...]]) -> None:
        self._resolving.pop(host, None)
        if not task.cancelled():
            task.exception()  # every waiter may have been cancelled meanwhile

    def _proxy_for(self, scheme: str, host: str, *, port: int) -> URL | None:
        proxy = self._proxies.get(scheme) or self._proxies.get("all")
        if proxy is None or _bypasses_proxy(host, port=port):
            return None
        return proxy


def _remember(cache: dict[str, tuple[float, T]], key: str, value: T) -> None:
    if len(cache) >= _REMEMBERED:
        cache.clear()
    cache[key] = (time.monotonic() + FRESH_S, value)


def parse_url(url: str) -> tuple[str, str, int, URL]:
    """Scheme, host, port and the URL rebuilt from them. Raises UpstreamUnreachable."""
    match = _URL.fullmatch(url)
    if match is None:
        raise _refused("it is not a plain http or https URL")
    scheme, v6, name, port_text, rest = match.group("scheme", "v6", "name", "port", "rest")
    scheme = scheme.lower()
    host = _ipv6(v6) if v6 is not None else _hostname(name.lower())
    port = int(port_text) if port_text else 443 if scheme == "https" else 80
    if not 0 < port < 65536:
        raise _refused("its port is out of range")
    authority = f"[{host}]" if v6 is not None else host
    return scheme, host, port, URL(f"{scheme}://{authority}:{port}{rest}")


def _ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        raise _refused("its host is not an address") from None


def _hostname(name: str) -> str:
    labels = name.split(".")
    if len(name) > 253 or not all(0 < len(label) < 64 for label in labels):
        raise _refused("its host is not a name")
    if _NUMBER.fullmatch(labels[-1]):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are loopback to a resolver: only the usual form passes.
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise _refused("its host is a number in an unusual form") from None
    return name


async def _look_up(host: str) -> tuple[str, ...]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_RESOLVE_S):
            answers = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a timeout is an OSError too
        logger.info("outbound: %s has no address: %s", host, error)
        raise UpstreamUnreachable(
            "The upstream's name has no address.", kind="dns", retryable=True
        ) from None
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _refused(reason: str) -> UpstreamUnreachable:
    return UpstreamUnreachable(
        f"The upstream's URL may not be used: {reason}.", kind="outbound", retryable=False
    )


def _proxies_of_environment() -> dict[str, URL]:
    found = getproxies_environment()
    return {
        scheme: URL(found[scheme] if "://" in found[scheme] else f"http://{found[scheme]}")
        for scheme in ("http", "https", "all")
        if found.get(scheme)
    }


def _bypasses_proxy(host: str, *, port: int) -> bool:
    if proxy_bypass(f"{host}:{port}"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    networks = getproxies_environment().get("no", "").split(",")
    return any(_is_in(address, text.strip()) for text in networks)


def _is_in(address: Address, network: str) -> bool:
    # The standard library knows suffixes only; NO_PROXY=10.0.0.0/8 is common all the same.
    try:
        return address in ip_network(network)
    except ValueError:
        return False
