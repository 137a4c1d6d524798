"""A provider that fails, and workers that share what they know of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import spare_database
from tests.gateway import KEY, Answered, Gateway, configuration, wait_until
from tests.upstream import (
    Upstream,
    completion,
    list_models,
    scripted_upstream,
    silence,
    whole,
)

ADMIN = "gw-test-admin-0123456789abcdef0123456789abc"
REST_S = 2.0
DOWN = whole(500, {"error": {"message": "down"}})


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(provider: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers that share nothing but the database."""
    folder = tmp_path_factory.mktemp("breakers")
    configured = configuration(provider.base_url, breaker={"failures": 5, "open_s": REST_S})
    configured["keys"].append({"name": "boss", "secret": ADMIN, "admin": True})
    with spare_database(folder) as url:
        gateway = Gateway(folder, url, workers=2)
        gateway.environment["ABSTRACTCORE_DISCOVERY_TTL"] = "1"
        gateway.apply(configured)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def ask(gateway: Gateway, model: str) -> Answered:
    return gateway.chat({"model": model, "messages": [{"role": "user", "content": "hi"}]})


def status(gateway: Gateway, key: str = ADMIN) -> dict[str, Any]:
    answered = gateway.call("GET", "/v1/status", headers={"authorization": f"Bearer {key}"})
    told: dict[str, Any] = answered.json()
    return told


def breaker(gateway: Gateway, model: str) -> dict[str, Any]:
    """None where it is not in the database yet."""
    told: dict[str, Any] = status(gateway)["circuit_breakers"].get(model, {"state": None})
    return told


def circuit_events(gateway: Gateway, model: str) -> list[tuple[str, dict[str, Any]]]:
    told = gateway.events()
    return [(e.type, e.fields) for e in told if e.type.startswith("circuit") and e.model == model]


def provider_status(gateway: Gateway, path: str = "/v1/status") -> str:
    answered = gateway.call("GET", path, headers={"authorization": f"Bearer {ADMIN}"})
    (told,) = (each for each in answered.json()["providers"] if each["name"] == "scripted")
    return str(told["status"])


def provider_changes(gateway: Gateway) -> list[dict[str, Any]]:
    told = gateway.events()
    return [each.fields for each in told if each.type == "provider_status_changed"]


def open_it(gateway: Gateway, provider: Upstream, model: str) -> None:
    provider.script = DOWN
    statuses = [ask(gateway, model).status for _ in range(5)]
    assert set(statuses) <= {502, 503}
    wait_until(lambda: breaker(gateway, model)["state"] == "open", seconds=10)


def test_that_a_provider_went_away_and_came_back_is_told_once(
    gateway: Gateway, provider: Upstream
) -> None:
    refreshed = "/v1/providers?refresh=1"
    wait_until(lambda: provider_status(gateway, refreshed) == "healthy", seconds=5)
    time.sleep(1)
    provider.listing, before = DOWN, provider.listings
    wait_until(lambda: provider.listings >= before + 2, seconds=10)  # both workers were told
    wait_until(lambda: len(provider_changes(gateway)) == 1, seconds=5)
    provider.listing = list_models
    assert provider_status(gateway, refreshed) == "healthy"
    wait_until(lambda: len(provider_changes(gateway)) == 2, seconds=5)
    assert provider_changes(gateway) == [
        {"from": "healthy", "to": "unavailable", "reason": "protocol"},
        {"from": "unavailable", "to": "healthy", "reason": None},
    ]


def test_all_workers_let_a_failing_upstream_rest_and_try_it_once(
    gateway: Gateway, provider: Upstream
) -> None:
    model = "scripted/tired"
    open_it(gateway, provider, model)
    opened = time.monotonic()
    time.sleep(1.0)  # both workers have heard of it
    provider.asked.clear()
    refused = [ask(gateway, model) for _ in range(8)]
    if time.monotonic() - opened < REST_S:
        assert {each.status for each in refused} == {503}
        assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
        assert {each.json()["error"]["code"] for each in refused} == {"circuit_open"}
        assert not provider.asked

    provider.script = whole(200, completion())
    time.sleep(max(0.0, opened + REST_S + 0.1 - time.monotonic()))
    wait_until(lambda: ask(gateway, model).status == 200, seconds=5)
    wait_until(lambda: breaker(gateway, model)["state"] == "closed", seconds=5)
    wait_until(lambda: len(circuit_events(gateway, model)) >= 3, seconds=5)
    types = [type_ for type_, _ in circuit_events(gateway, model)]
    assert types == ["circuit_opened", "circuit_half_open", "circuit_closed"]
    for _, fields in circuit_events(gateway, model):
        assert fields["failures"] >= 5
        assert fields["open_for_ms"] == REST_S * 1000
    wait_until(lambda: len(provider_changes(gateway)) >= 4, seconds=5)
    assert provider_changes(gateway)[2:] == [
        {"from": "healthy", "to": "degraded", "reason": "circuit_open"},
        {"from": "degraded", "to": "healthy", "reason": None},
    ]


def test_an_open_breaker_is_seen(gateway: Gateway, provider: Upstream) -> None:
    model = "scripted/seen"
    open_it(gateway, provider, model)
    told = breaker(gateway, model)
    assert told["failures"] >= 5
    assert told["open_until"].endswith("Z")
    assert status(gateway)["status"] == provider_status(gateway) == "degraded"
    wait_until(lambda: provider_status(gateway, "/v1/providers") == "degraded", seconds=5)
    assert status(gateway, KEY)["circuit_breakers"][model] == {"state": "open"}


def test_a_configured_deployments_breaker_is_a_metric(gateway: Gateway, provider: Upstream) -> None:
    model = "scripted/gpt-4o-mini"
    open_it(gateway, provider, model)

    def value() -> float:
        headers = {"authorization": f"Bearer {ADMIN}"}
        text = gateway.call("GET", "/metrics", headers=headers).body.decode()
        families = {each.name: each for each in text_string_to_metric_families(text)}
        samples = families["abstractcore_circuit_breaker_state"].samples
        labels = {"provider": "scripted", "model": "gpt-4o-mini"}
        return next(sample.value for sample in samples if sample.labels == labels)

    wait_until(lambda: value() == 2, seconds=5)
