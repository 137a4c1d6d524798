"""Below a path, behind a proxy that strips it and behind one that does not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.gateway import KEY, Gateway

pytestmark = pytest.mark.once
PREFIX = "/gw"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("prefix")
    gateway = Gateway(folder, f"sqlite:///{folder / 'db.sqlite3'}")
    gateway.environment["ABSTRACTCORE_URL_PREFIX"] = PREFIX
    gateway.apply(
        {
            "providers": [{"name": "demo", "kind": "fake"}],
            "deployments": [{"provider": "demo", "model": "echo"}],
            "keys": [{"name": "ci", "secret": KEY}],
        }
    )
    gateway.start()
    yield gateway
    gateway.stop()


@pytest.fixture(params=["", PREFIX], ids=["stripped", "kept"])
def arriving(request: pytest.FixtureRequest) -> str:
    """What the proxy leaves of the prefix."""
    return str(request.param)


def test_the_api_answers(gateway: Gateway, arriving: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = gateway.call("GET", f"{arriving}/v1/models", headers=headers)
    assert answer.status == 200
    assert "demo/echo" in [model["id"] for model in answer.json()["data"]]


def test_an_address_with_a_parameter_answers(gateway: Gateway, arriving: str) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = gateway.call("GET", f"{arriving}/v1/models/demo/echo", headers=headers)
    assert answer.json()["id"] == "demo/echo"


@pytest.mark.parametrize("page", ["/docs", "/admin/login/"])
def test_a_page_and_all_it_loads_are_there(gateway: Gateway, arriving: str, page: str) -> None:
    answer = gateway.call("GET", f"{arriving}{page}")
    assert answer.status == 200
    assets = re.findall(r'<(?:script|link|img)[^>]*?(?:src|href)="([^"]+)"', answer.body.decode())
    assert assets
    for asset in assets:
        assert asset.startswith(f"{PREFIX}/"), "a browser knows only the address with the prefix"
        arrived = arriving + asset.removeprefix(PREFIX).replace("&amp;", "&")
        assert gateway.call("GET", arrived).status == 200, arrived


def test_the_admin_sends_browsers_to_an_address_with_the_prefix(
    gateway: Gateway, arriving: str
) -> None:
    answer = gateway.call("GET", f"{arriving}/admin/")
    assert answer.status == 302
    assert answer.headers["location"].startswith(f"{PREFIX}/admin/login/?next={PREFIX}/admin/")


def test_the_documentation_calls_addresses_with_the_prefix(gateway: Gateway, arriving: str) -> None:
    document = gateway.call("GET", f"{arriving}/openapi.json").json()
    (server,) = document.get("servers") or [{"url": ""}]
    for path in document["paths"]:
        assert f"{server['url']}{path}".startswith(f"{PREFIX}/"), path


def test_a_path_that_only_begins_like_the_prefix_is_not_below_it(gateway: Gateway) -> None:
    assert gateway.call("GET", "/gwen/v1/models").status == 404
