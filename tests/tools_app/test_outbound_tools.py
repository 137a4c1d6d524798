"""Where tools may lead: nowhere inside, by whatever way (CVE-2025-59146 and its kin)."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from providers.outbound import parse_networks
from tests.tools_app.stage import call, http_tool
from tests.upstream import Upstream, scripted_upstream, whole

INSIDE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.7",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "0.1.2.3",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::a9fe:a9fe]",
    "[fe80::1]",
    "[fc00::1]",
    "[2002:7f00:1::]",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "127.1",
]


@pytest.mark.parametrize("host", INSIDE)
@pytest.mark.parametrize("kind", ["http", "mcp"])
async def test_no_tool_reaches_an_address_inside(host: str, kind: str) -> None:
    result = await call(http_tool(f"http://{host}:8000/", kind=kind))
    assert result.error == "outbound"
    assert "not permitted" in result.text


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://127.0.0.1:70/",
        "http://user@10.0.0.7/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com#@127.0.0.1\n/",
    ],
)
async def test_only_plain_urls_are_asked(url: str) -> None:
    assert (await call(http_tool(url))).error == "outbound"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("kind", ["http", "mcp"])
async def test_a_redirect_is_not_followed(place: Upstream, status: int, kind: str) -> None:
    with scripted_upstream(whole(200, {"secret": "inside"})) as inside:
        for target in (inside.base_url, f"{place.base_url}/elsewhere"):
            place.script = whole(status, b"", location=target)
            place.asked.clear()
            result = await call(http_tool(place.base_url, kind=kind, timeout_s=5))
            assert result.failed
            assert {asked.path for asked in place.asked} == {"/v1"}
        assert inside.asked == []


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Every look-up gets the next of these answers, the last one for ever."""
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["10.0.0.7"], ["93.184.216.34", "127.0.0.1"], ["::ffff:10.0.0.7"]]
)
async def test_a_name_that_leads_inside_is_refused(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    resolving(monkeypatch, addresses)
    assert (await call(http_tool("http://tools.example/"))).error == "outbound"


async def test_a_name_is_not_looked_up_again_between_check_and_connection(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    with scripted_upstream(whole(200, {"secret": "inside"})) as inside:
        settings.OUTBOUND_ALLOW = parse_networks("127.0.0.2/32")
        asked = resolving(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
        result = await call(http_tool(f"http://rebinding.example:{inside.port}/", timeout_s=2))
    assert result.error in ("network", "timeout")  # nobody listens at the address that was checked
    assert asked == ["rebinding.example"]
    assert inside.asked == []


async def test_what_the_setting_opens_is_open(place: Upstream) -> None:
    place.script = whole(200, {"ok": True})
    assert (await call(http_tool(place.base_url))).error is None


async def test_no_setting_opens_the_metadata_service(settings: Any) -> None:
    settings.OUTBOUND_ALLOW = parse_networks("0.0.0.0/0, ::/0")
    for host in ("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"):
        assert (await call(http_tool(f"http://{host}/latest/"))).error == "outbound"
