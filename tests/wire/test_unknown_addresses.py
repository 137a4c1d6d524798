"""What is asked where nothing is, or of a host that is not ours: no page for browsers."""

from __future__ import annotations

import pytest

from tests.gateway import KEY, Answered, Gateway

pytestmark = pytest.mark.once

HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}


def check_json(answered: Answered, status: int) -> None:
    assert answered.status == status
    assert answered.headers["content-type"] == "application/json"
    assert "x-request-id" in answered.headers
    assert answered.json()["error"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/chat/completions", "/v1/", "/v1/nothing", "/api/", "/api/nothing"]
)
def test_an_address_without_anything_is_404_in_json(
    gateway: Gateway, method: str, path: str
) -> None:
    check_json(gateway.call(method, path, headers=HEADERS), 404)


def test_below_api_it_is_told_in_ollamas_words(gateway: Gateway) -> None:
    told = gateway.call("GET", "/api/", headers=HEADERS).json()
    assert isinstance(told["error"], str)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/v1/models", "/api/tags", "/nothing"])
def test_a_host_that_is_not_ours_is_400_in_json(gateway: Gateway, path: str) -> None:
    check_json(gateway.call("GET", path, headers={**HEADERS, "host": "evil.example"}), 400)


@pytest.mark.parametrize(("path", "status"), [("/openapi.json", 200), ("/docs", 405)])
def test_options_tell_what_the_documentation_allows(
    gateway: Gateway, path: str, status: int
) -> None:
    answered = gateway.call("OPTIONS", path, headers=HEADERS)
    assert answered.status == status
    assert "GET" in answered.headers["allow"]
