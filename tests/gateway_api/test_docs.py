"""The interactive documentation: whole, valid, and served from here alone."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client
from drf_spectacular.validation import validate_schema
from jsonschema import Draft202012Validator

from gateway_api.not_found import UnknownAddressView
from gateway_api.urls import urlpatterns

pytestmark = pytest.mark.once
OPEN = {"/livez", "/readyz"}


class _Page(HTMLParser):
    """The addresses a page loads, and the scripts that stand in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._in_script = tag == "script" and "src" not in named
        if tag in ("script", "link", "img"):
            self.addresses += [named[name] or "" for name in ("src", "href") if name in named]
        self.inline += [name for name in named if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.inline.append(data)


@pytest.fixture
def document(client: Client) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def page(client: Client) -> _Page:
    answer = client.get("/docs", headers={"accept": "text/html"})
    assert answer.status_code == 200
    return _Page(answer.content.decode())


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    validate_schema(document)  # type: ignore[no-untyped-call]  # published untyped
    assert document["openapi"].startswith("3.1.")


@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/vnd.oai.openapi"])
def test_the_document_is_json_whatever_is_asked_for(client: Client, accept: str) -> None:
    answer = client.get("/openapi.json", headers={"accept": accept})
    assert answer["content-type"] == "application/json"
    assert answer.json()["info"]["title"] == "AbstractCore Server"


def test_the_document_names_every_address_of_the_api(document: dict[str, Any]) -> None:
    served = {
        re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", f"/{pattern.pattern}")
        for pattern in urlpatterns
        if not issubclass(getattr(pattern.callback, "view_class", object), UnknownAddressView)
    }
    assert "/v1/chat/completions" in served
    assert set(document["paths"]) == served


def test_every_address_but_the_probes_says_that_it_wants_a_key(document: dict[str, Any]) -> None:
    (name,) = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][name]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            wanted = [list(way) for way in operation.get("security", [])]
            assert wanted == ([] if path in OPEN else [[name]]), path


def test_the_page_loads_nothing_from_elsewhere(client: Client, page: _Page) -> None:
    assert page.addresses
    for address in page.addresses:
        assert re.match(r"/(?!/)", address), address
        asset = client.get(address)
        assert asset.status_code == 200, address
        assert asset.getvalue(), address  # to its end, which closes the file
        if "?script" in address:
            assert b"://" not in asset.content
            assert asset["content-type"].startswith("application/javascript")


def test_the_page_holds_no_script_its_own_policy_would_stop(client: Client, page: _Page) -> None:
    policy = client.get("/docs")["content-security-policy"]
    scripts = next(part for part in policy.split(";") if part.strip().startswith("script-src"))
    assert "unsafe-inline" not in scripts
    assert [text for text in page.inline if text.strip()] == []


def test_every_address_that_takes_a_body_tells_how_it_is_refused(document: dict[str, Any]) -> None:
    takers = {
        path: operation["post"]["responses"].keys()
        for path, operation in document["paths"].items()
        if "requestBody" in operation.get("post", {})
    }
    assert {path for path, told in takers.items() if not {"400", "413", "415"} <= told} == set()


WITH_EXAMPLES = {
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/conversations",
    "/v1/conversations/{conversation_id}/items",
    "/v1/sessions",
    "/v1/sessions/{session_id}/chat",
    "/v1/tools/register",
    "/v1/generate/structured",
}


@pytest.mark.parametrize("path", sorted(WITH_EXAMPLES))
def test_a_first_request_is_shown_that_fits_its_own_schema(
    document: dict[str, Any], path: str
) -> None:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    schema = {**content["schema"], "components": document["components"]}
    for example in content["examples"].values():
        Draft202012Validator(schema).validate(example["value"])
