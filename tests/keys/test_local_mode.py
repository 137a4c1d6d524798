"""Which requests local mode takes for this machine's own."""

from __future__ import annotations

import pytest
from django.test import RequestFactory

from keys.local_mode import is_local

pytestmark = pytest.mark.once


def asked(*, address: str = "127.0.0.1", host: str = "localhost:8000", **headers: str) -> bool:
    """Whether a request from `address` is local. Headers as in META, without `HTTP_`."""
    request = RequestFactory().get("/")
    request.META.update({"REMOTE_ADDR": address, "HTTP_HOST": host})
    request.META.update({f"HTTP_{name}": value for name, value in headers.items()})
    return is_local(request)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1"])
@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_a_process_of_this_machine_is_local(address: str, host: str) -> None:
    assert asked(address=address, host=host)


@pytest.mark.parametrize("address", ["192.168.1.7", "10.0.0.1", "::", "0.0.0.0", "", "localhost.x"])
def test_another_machine_is_not(address: str) -> None:
    assert not asked(address=address)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:127", "192.168.1.7", "", "[::1", "@"],
)
def test_a_foreign_host_is_not_local(host: str) -> None:
    assert not asked(host=host)


@pytest.mark.parametrize(
    "name",
    ["FORWARDED", "X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PROTO", "X_REAL_IP", "VIA"],
)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
def test_what_came_through_a_proxy_is_not_local(name: str, value: str) -> None:
    assert not asked(**{name: value})


@pytest.mark.parametrize("origin", ["http://localhost:8000"])
def test_a_page_of_our_own_is_local(origin: str) -> None:
    assert asked(ORIGIN=origin, SEC_FETCH_SITE="same-origin")


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "", "http://localhost:9000", "https://localhost:8000"),
        *("http://127.0.0.1:8000", "http://localhost:8000.evil.example"),
    ],
)
def test_a_page_of_another_origin_is_not_local(origin: str) -> None:
    assert not asked(ORIGIN=origin)


@pytest.mark.parametrize(
    ("site", "local"),
    [
        ("none", True),
        ("same-origin", True),
        ("same-site", False),
        ("cross-site", False),
        ("", False),
    ],
)
def test_the_browser_tells_who_sent_it(site: str, local: bool) -> None:
    assert asked(SEC_FETCH_SITE=site) is local
