"""Test connection: what it tells of an upstream, and who may ask."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from django.test import Client

from providers import connection
from providers.connection import ConnectionReport
from providers.models import Provider
from tests.admin.conftest import CANARY, ClientWith, Upstream


def ask(
    base_url: str, *, kind: str = "openai-compatible", api_key: str = CANARY, **options: Any
) -> ConnectionReport:
    return asyncio.run(connection.test_connection(kind, base_url, api_key=api_key, **options))


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_upstream_that_answers_is_a_success_with_its_models(upstream: Upstream) -> None:
    report = ask(upstream.base_url, provider="vllm")
    assert (report.status, report.provider, report.error) == ("success", "vllm", None)
    assert (report.models, report.model_count) == (("model-a", "model-b"), 2)
    assert report.latency_ms >= 0


def test_ten_models_are_shown_and_all_are_counted(upstream: Upstream) -> None:
    upstream.body = {"data": [{"id": f"m{number}"} for number in range(25)]}
    report = ask(upstream.base_url)
    assert (len(report.models), report.model_count) == (10, 25)


def test_a_named_model_is_asked_for_a_token(upstream: Upstream) -> None:
    report = ask(upstream.base_url, model="model-a")
    assert (report.status, report.model, report.response) == ("success", "model-a", "hi")
    assert [method for method, _, _ in upstream.seen] == ["GET", "POST"]


def test_without_a_model_no_token_is_asked_for(upstream: Upstream) -> None:
    ask(upstream.base_url)
    assert [method for method, _, _ in upstream.seen] == ["GET"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "auth"), (403, "auth"), (404, "not_found"), (429, "rate_limit"), (500, "protocol")],
)
def test_an_upstreams_refusal_has_its_kind(upstream: Upstream, status: int, kind: str) -> None:
    upstream.status, upstream.body = status, {"error": {"message": f"no, {CANARY}"}}
    report = ask(upstream.base_url)
    assert report.error is not None
    assert (report.status, report.error.kind) == ("error", kind)
    assert CANARY not in report.error.message
    assert str(upstream.port) not in report.error.message


def test_a_closed_port_is_a_network_error() -> None:
    report = ask(f"http://127.0.0.1:{closed_port()}/v1")
    assert report.error is not None
    assert report.error.kind == "network"


def test_a_name_without_an_address_is_a_dns_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    report = ask("http://no-such-host.invalid/v1")
    assert report.error is not None
    assert report.error.kind == "dns"


def test_plain_http_where_tls_is_expected_is_a_tls_error(upstream: Upstream) -> None:
    report = ask(upstream.base_url.replace("http:", "https:"))
    assert report.error is not None
    assert report.error.kind == "tls"


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b'{"data": 5}', b""])
def test_an_answer_that_is_no_list_of_models_is_a_protocol_error(
    upstream: Upstream, body: bytes
) -> None:
    upstream.body = body
    report = ask(upstream.base_url)
    assert report.error is not None
    assert report.error.kind == "protocol"


def test_a_silent_upstream_is_a_timeout(upstream: Upstream) -> None:
    upstream.silent = True
    report = ask(upstream.base_url, timeout_s=0.2)
    assert report.error is not None
    assert report.error.kind == "timeout"


def test_an_address_the_guard_refuses_is_a_network_error() -> None:
    report = ask("http://169.254.169.254/v1")
    assert report.error is not None
    assert report.error.kind == "network"


def test_a_kind_that_needs_a_key_is_not_asked_without(upstream: Upstream) -> None:
    report = ask(upstream.base_url, kind="openai", api_key="")
    assert report.error is not None
    assert (report.error.kind, upstream.seen) == ("auth", [])


def test_a_kind_without_an_adapter_says_so() -> None:
    report = ask("http://127.0.0.1:9/v1", kind="smoke-signals")
    assert report.error is not None
    assert report.error.kind == "protocol"


def test_a_long_message_is_cut(upstream: Upstream) -> None:
    upstream.status, upstream.body = 400, {"error": {"message": "long " * 1000}}
    report = ask(upstream.base_url)
    assert report.error is not None
    assert len(report.error.message) <= connection.MAX_MESSAGE


def test_a_server_without_a_list_is_judged_by_the_model(upstream: Upstream) -> None:
    upstream.status_of_list = 404
    report = ask(upstream.base_url, model="model-a")
    assert (report.status, report.response, report.models) == ("success", "hi", ())


# --- in the admin -----------------------------------------------------------------------------


def path_of(row: Provider) -> str:
    return f"/admin/providers/provider/{row.pk}/test_connection/"


SUBMITTED = {"_form_submitted": "True", "model": ""}


def test_the_button_asks_the_stored_address_with_the_stored_key(
    admin_client: Client, provider: Provider, upstream: Upstream
) -> None:
    page = admin_client.post(path_of(provider), SUBMITTED).content.decode()
    assert upstream.seen == [("GET", "/v1/models", f"Bearer {CANARY}")]
    assert "vllm answered in" in page
    assert "model-b" in page


def test_nothing_posted_can_redirect_the_stored_key(
    admin_client: Client, provider: Provider, upstream: Upstream
) -> None:
    """M43."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        evil = f"http://127.0.0.1:{other.getsockname()[1]}/v1"
        posted = SUBMITTED | {"base_url": evil, "api_base": evil, "kind": "openai"}
        admin_client.post(path_of(provider), posted)
        other.settimeout(0.05)
        with pytest.raises(TimeoutError):
            other.accept()
    assert len(upstream.seen) == 1


def test_opening_the_dialog_asks_nobody(
    admin_client: Client, provider: Provider, upstream: Upstream
) -> None:
    assert admin_client.get(path_of(provider)).status_code == 200
    assert upstream.seen == []


def test_a_failure_shows_its_kind_and_neither_key_nor_address(
    admin_client: Client, provider: Provider, upstream: Upstream
) -> None:
    upstream.status, upstream.body = 401, {"error": {"message": f"bad key {CANARY}"}}
    page = admin_client.post(path_of(provider), SUBMITTED).content.decode()
    assert "auth" in page
    assert CANARY not in page
    assert upstream.base_url not in page


def test_what_an_upstream_says_is_escaped(
    admin_client: Client, provider: Provider, upstream: Upstream
) -> None:
    """CVE-2026-25802."""
    upstream.body = {"data": [{"id": "<script>alert(1)</script>"}]}
    upstream.completion["choices"][0]["message"]["content"] = "<img src=x onerror=alert(2)>"
    posted = SUBMITTED | {"model": "model-a"}
    page = admin_client.post(path_of(provider), posted).content.decode()
    assert "&lt;script&gt;" in page and "&lt;img" in page
    assert "<script>alert" not in page and "<img" not in page


def test_a_key_encrypted_under_a_lost_secret_is_told(
    admin_client: Client, provider: Provider, upstream: Upstream
) -> None:
    Provider.objects.update(api_key="gAAAAAB-not-ours")
    page = admin_client.post(path_of(provider), SUBMITTED).content.decode()
    assert "encrypted under another secret key" in page
    assert upstream.seen == []


def test_it_needs_the_right_to_change_providers(
    client_with: ClientWith, provider: Provider, upstream: Upstream
) -> None:
    reader = client_with("providers.view_provider")
    assert reader.post(path_of(provider), SUBMITTED).status_code == 403
    assert upstream.seen == []


def test_it_needs_a_csrf_token(admin_user: Any, provider: Provider, upstream: Upstream) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    assert client.post(path_of(provider), SUBMITTED).status_code == 403
    assert upstream.seen == []


def test_a_provider_that_is_gone_is_not_found(admin_client: Client, db: None) -> None:
    path = "/admin/providers/provider/999/test_connection/"
    assert admin_client.post(path, SUBMITTED).status_code == 404


def test_the_list_tests_every_selected_provider(
    admin_client: Client, provider: Provider, upstream: Upstream
) -> None:
    down = Provider.objects.create(
        name="down", kind="openai-compatible", base_url=f"http://127.0.0.1:{closed_port()}/v1"
    )
    response = admin_client.post(
        "/admin/providers/provider/",
        {"action": "test_connections", "_selected_action": [provider.pk, down.pk]},
        follow=True,
    )
    told = [str(message) for message in response.context["messages"]]
    assert told[0] == "down: network error. The upstream cannot be reached."
    assert told[1].startswith("vllm: answered in")
    assert told[1].endswith("2 models: model-a, model-b.")
    assert not [text for text in told if CANARY in text]


def test_the_list_action_is_not_offered_to_readers(
    client_with: ClientWith, provider: Provider, upstream: Upstream
) -> None:
    reader = client_with("providers.view_provider")
    posted = {"action": "test_connections", "_selected_action": [provider.pk]}
    reader.post("/admin/providers/provider/", posted)
    assert upstream.seen == []


def test_options_reach_scripted_providers(admin_client: Client, db: None) -> None:
    row = Provider.objects.create(name="demo", kind="fake", options={"models": {"echo": {}}})
    assert "echo" in admin_client.post(path_of(row), SUBMITTED).content.decode()
