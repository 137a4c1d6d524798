"""The outbound guard: which URLs and addresses may be reached (CVE-2025-59146 and its kin)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from chat.errors import UpstreamUnreachable
from providers import outbound
from providers.outbound import CheckedTarget, OutboundGuard, OutboundPolicy, parse_networks

TOOLS = OutboundPolicy.for_tools()
PROVIDERS = OutboundPolicy.for_providers()
EVERYWHERE = OutboundPolicy.for_providers(parse_networks("0.0.0.0/0, ::/0"))

Names = Callable[..., list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """`names("api.example", "8.8.8.8", …)` gives a name its addresses; answers what was asked."""
    known: dict[str, list[str]] = {}
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        if host not in known and not host.replace(".", "").isdigit() and ":" not in host:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(0, 0, 0, "", (each, 0)) for each in known.get(host, [host])]

    def name(host: str, *addresses: str) -> list[str]:
        known[host] = list(addresses)
        return asked

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return name


async def check(policy: OutboundPolicy, url: str) -> CheckedTarget:
    return await OutboundGuard(policy).check(url)


async def refusal(policy: OutboundPolicy, url: str) -> UpstreamUnreachable:
    with pytest.raises(UpstreamUnreachable) as caught:
        await check(policy, url)
    return caught.value


FORBIDDEN = [
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.0.9",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "100::1",
    "2001::7f00:1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_an_address_off_the_public_internet_is_refused_to_tools(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    error = await refusal(TOOLS, f"http://{host}/v1")
    assert (error.kind, error.retryable) == ("outbound", False)


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_a_name_for_such_an_address_is_refused_to_tools(address: str, names: Names) -> None:
    names("api.example", address)
    assert (await refusal(TOOLS, "https://api.example/")).kind == "outbound"


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"]
)
async def test_a_public_address_is_open_to_everybody(address: str, names: Names) -> None:
    names("api.example", address)
    assert (await check(TOOLS, "https://api.example/")).address == address


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fe80::1",
        "0.0.0.0",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
async def test_no_setting_opens_metadata_services_and_the_like(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert (await refusal(EVERYWHERE, f"http://{host}/")).kind == "outbound"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]"])
async def test_loopback_is_open_to_providers(host: str) -> None:
    assert (await check(PROVIDERS, f"http://{host}:9/")).host == host.strip("[]")


async def test_private_addresses_are_closed_to_providers_until_they_are_listed() -> None:
    assert (await refusal(PROVIDERS, "http://10.1.2.3/")).kind == "outbound"
    listed = OutboundPolicy.for_providers(parse_networks("10.1.0.0/16"))
    assert (await check(listed, "http://10.1.2.3/")).address == "10.1.2.3"
    assert (await refusal(listed, "http://10.2.0.1/")).kind == "outbound"


async def test_a_listed_network_opens_loopback_to_tools_too() -> None:
    listed = OutboundPolicy.for_tools(parse_networks("127.0.0.0/8"))
    assert (await check(listed, "http://127.0.0.1/")).address == "127.0.0.1"


async def test_one_forbidden_address_of_many_refuses_the_name(names: Names) -> None:
    names("mixed.example", "8.8.8.8", "2606:4700::1111", "10.0.0.1")
    assert (await refusal(PROVIDERS, "https://mixed.example/")).kind == "outbound"


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.01/",
        "http://1.1.1.0x1/",
        "http://8.8.8.8.8/",
        "http://localhost./",
        "http://127.0.0.1./",
        "http://①②⑦.⓪.⓪.①/",
        "http://１２７.0.0.1/",
        "http://localhoſt/",
        "http://bücher.example/",
        "http://127。0。0。1/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "http://[127.0.0.1]/",
        "http://[1:2]/",
        "http://::1/",
        "http://user@127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "http://127.0.0.1@8.8.8.8/",
        "http://8.8.8.8\\@127.0.0.1/",
        "http://8.8.8.8#@127.0.0.1:80@x/\n",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:65536/",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:/",
        "http://127.0.0.1:8O/",
        "http://127.0.0.1:８0/",
        "http://127.0.0.1:80:80/",
        "http://127%2e0.0.1/",
        "http://a..b/",
        "http://.a/",
        "http://-a.example/",
        f"http://{'a' * 64}.example/",
        "http:///v1",
        "http:127.0.0.1",
        "//127.0.0.1/",
        "127.0.0.1:80",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        " http://127.0.0.1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nx: y",
        "http://127.0.0.1/\x00",
        "http://127.0.0.1\t/",
        "",
    ],
)
async def test_a_url_that_two_parsers_could_read_differently_is_refused(url: str) -> None:
    error = await refusal(PROVIDERS, url)
    assert error.kind == "outbound"
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("url", "rebuilt"),
    [
        ("HTTP://LocalHost", "http://localhost"),
        ("http://localhost:80/v1?a=b#part", "http://localhost/v1?a=b"),
        ("https://localhost:443/v1", "https://localhost/v1"),
        ("http://localhost:8080?a=1", "http://localhost:8080/?a=1"),
        ("http://[0:0:0:0:0:0:0:1]:8080/", "http://[::1]:8080/"),
        ("http://my_service.docker-1:8000/", "http://my_service.docker-1:8000/"),
    ],
)
async def test_the_client_gets_the_url_rebuilt_from_what_was_checked(
    url: str, rebuilt: str, names: Names
) -> None:
    names("localhost", "127.0.0.1")
    names("::1", "::1")
    names("my_service.docker-1", "127.0.0.1")
    assert str((await check(PROVIDERS, url)).url) == rebuilt


async def test_all_checked_addresses_are_kept_in_order(names: Names) -> None:
    names("localhost", "::1", "127.0.0.1", "::1")
    target = await check(PROVIDERS, "http://localhost:1234/")
    assert (target.addresses, target.port) == (("::1", "127.0.0.1"), 1234)


async def test_a_name_without_an_address_is_a_dns_failure_worth_a_retry(names: Names) -> None:
    error = await refusal(PROVIDERS, "http://nowhere.example/")
    assert (error.kind, error.retryable) == ("dns", True)
    assert "nowhere" not in error.message


async def test_a_name_is_resolved_once_for_many_requests(names: Names) -> None:
    asked = names("api.example", "8.8.8.8")
    guard = OutboundGuard(TOOLS)
    await asyncio.gather(*(guard.check(f"https://api.example/{n}") for n in range(50)))
    await guard.check("https://api.example/1")
    assert asked == ["api.example"]


async def test_a_name_is_checked_anew_after_a_while(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names("api.example", "8.8.8.8")
    monkeypatch.setattr(outbound, "FRESH_S", 0.0)
    guard = OutboundGuard(TOOLS)
    await guard.check("https://api.example/")
    names("api.example", "169.254.169.254")
    with pytest.raises(UpstreamUnreachable):
        await guard.check("https://api.example/")


async def test_a_refusal_is_not_remembered(names: Names) -> None:
    guard = OutboundGuard(TOOLS)
    with pytest.raises(UpstreamUnreachable):
        await guard.check("https://api.example/")
    names("api.example", "8.8.8.8")
    assert (await guard.check("https://api.example/")).address == "8.8.8.8"


async def test_a_cancelled_request_does_not_end_the_look_up_others_wait_for(names: Names) -> None:
    names("api.example", "8.8.8.8")
    guard = OutboundGuard(TOOLS)
    first = asyncio.create_task(guard.check("https://api.example/"))
    second = asyncio.create_task(guard.check("https://api.example/"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).address == "8.8.8.8"


async def test_what_is_remembered_has_a_bound(names: Names) -> None:
    names("api.example", "8.8.8.8")
    guard = OutboundGuard(TOOLS)
    for n in range(outbound._REMEMBERED + 10):
        await guard.check(f"https://api.example/{n}")
    assert len(guard._targets) <= outbound._REMEMBERED


@pytest.mark.parametrize(
    ("no_proxy", "url", "proxied"),
    [
        ("", "https://api.example/", True),
        ("", "http://api.example/", False),
        ("example", "https://api.example/", False),
        ("other.example", "https://api.example/", True),
        ("*", "https://api.example/", False),
        ("8.8.0.0/16", "https://8.8.8.8/", False),
        ("9.9.0.0/16", "https://8.8.8.8/", True),
        ("", "https://127.0.0.1/", False),
        ("", "https://localhost/", False),
    ],
)
async def test_proxies_of_the_environment_are_used_but_not_for_loopback(
    no_proxy: str, url: str, proxied: bool, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names("api.example", "8.8.8.8")
    names("localhost", "::1", "127.0.0.1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.corp:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    proxy = (await check(PROVIDERS, url)).proxy
    assert (str(proxy) if proxy else None) == ("http://proxy.corp:3128" if proxied else None)


async def test_only_providers_leave_an_unknown_name_to_the_proxy(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.corp:3128")
    target = await check(PROVIDERS, "https://api.elsewhere/")
    assert target.addresses == ()
    assert str(target.proxy) == "http://proxy.corp:3128"
    assert (await refusal(TOOLS, "https://api.elsewhere/")).kind == "dns"


async def test_a_proxy_opens_no_forbidden_address(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names("metadata.internal", "169.254.169.254")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.corp:3128")
    assert (await refusal(PROVIDERS, "http://metadata.internal/")).kind == "outbound"


def test_networks_are_parsed_from_a_list() -> None:
    parsed = parse_networks(" 10.0.0.0/8, fd00::/8 ,192.168.1.5,")
    assert [str(each) for each in parsed] == ["10.0.0.0/8", "fd00::/8", "192.168.1.5/32"]
    assert parse_networks("") == ()


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0/8;fd00::/8"])
def test_a_wrong_network_is_named_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not a network: write it like") as caught:
        parse_networks(f"192.168.0.0/16, {text}")
    assert "\n" not in str(caught.value)
