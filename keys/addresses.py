"""Where a request comes from."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from django.conf import settings
from django.http import HttpRequest

Address = IPv4Address | IPv6Address
FORWARDING = ("HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA")


def client_address(request: HttpRequest) -> Address | None:
    """The last hop of `X-Forwarded-For` that no proxy of ours added, and the peer itself unless it
    is one of TRUSTED_PROXIES."""
    nearest: Address | None = None
    for hop in reversed(_hops(request)):
        address = parse_address(hop)
        if address is None:
            break  # what stands before it was written by somebody we cannot name
        nearest = address
        if not _is_in(address, settings.TRUSTED_PROXIES):
            break
    return nearest


def is_from(request: HttpRequest, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Whether a request comes from one of these networks, as far as can be known: who says so
    through a proxy that is none of TRUSTED_PROXIES, or whose proxy does not say, does not."""
    *forwarded, peer = [parse_address(hop) for hop in _hops(request)]
    if peer is None:
        return False
    if not is_forwarded(request):
        return _is_in(peer, networks)
    if not _is_in(peer, settings.TRUSTED_PROXIES) or not forwarded or forwarded[-1] is None:
        return False
    address = client_address(request)
    return address is not None and _is_in(address, networks)


def is_forwarded(request: HttpRequest) -> bool:
    """Whether a proxy has told of itself."""
    meta = request.META
    return any(name in meta for name in FORWARDING) or any(
        name.startswith("HTTP_X_FORWARDED") for name in meta
    )


def parse_address(text: str) -> Address | None:
    """An address, of IPv4 also where IPv6 wraps it."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _hops(request: HttpRequest) -> list[str]:
    meta = request.META
    forwarded = meta.get("HTTP_X_FORWARDED_FOR")
    return [*(forwarded.split(",") if forwarded is not None else ()), meta.get("REMOTE_ADDR", "")]


def _is_in(address: Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks)
