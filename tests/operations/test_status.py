"""What makes a gateway degraded, and what its status says while parts of it are away."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from gateway_api.native.metrics import _local_models
from gateway_api.native.status import _lag_ms, _Read, _status
from keys.caller import ANYONE, Caller
from providers import health, listings
from providers.http import Timeouts
from providers.listings import Listing
from providers.snapshot import DeploymentFacts, ProviderFacts, Snapshot
from tests.gateway import Gateway, wait_until
from tests.operations.accounts import status
from tests.operations.mixed import ADMIN, configured
from tests.upstream import completion, scripted_upstream, whole
from usage.gauges import Gauges
from usage.heartbeat import living_workers
from usage.models import HourlyUsage, Worker
from usage.totals import all_requests, cost_today

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def facts(name: str = "lab", **changes: Any) -> ProviderFacts:
    told: dict[str, Any] = {
        "name": name,
        "kind": "ollama",
        "enabled": True,
        "base_url": "",
        "api_key": "",
        "timeouts": Timeouts(),
        "max_retries": 0,
        "options": {},
    }
    return ProviderFacts(**(told | changes))


def row(**changes: Any) -> Worker:
    told = {
        "name": "host-1.abc",
        "host": "host",
        "pid": 1,
        "started_at": NOW,
        "seen_at": NOW,
        "config_revision": 5,
    }
    return Worker(**(told | changes))


def read(*rows: Worker, now: datetime = NOW) -> _Read:
    return _Read([(each, now) for each in rows], 5, 0, Decimal(), 0, [])


def state(current: Snapshot, *rows: Worker, now: datetime = NOW) -> str:
    told: str = _status(current, read(*rows, now=now), ANYONE)["status"]
    return told


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    listings.forget_all()
    yield
    listings.forget_all()


def test_a_gateway_without_trouble_is_healthy() -> None:
    assert state(Snapshot(5, {}, {}, {}), row()) == "healthy"


@pytest.mark.parametrize(
    ("changes", "deployments", "expected"),
    [
        ({}, {}, "healthy"),  # nobody runs one where every database expects it
        ({"base_url": "http://127.0.0.1:11434"}, {}, "healthy"),
        ({"base_url": "http://127.0.0.1:9"}, {}, "degraded"),
        ({"api_key": "sk-x"}, {}, "degraded"),
        ({}, {("lab", "m"): DeploymentFacts()}, "degraded"),
        ({"base_url": "http://127.0.0.1:9", "enabled": False}, {}, "healthy"),
        ({"base_url": "http://127.0.0.1:9", "problem": "no credential"}, {}, "healthy"),
    ],
)
def test_a_provider_that_somebody_set_up_and_that_is_away_is_a_trouble(
    changes: dict[str, Any], deployments: Any, expected: str
) -> None:
    current = Snapshot(5, {"lab": facts(**changes)}, deployments, {})
    assert state(current, row()) == expected


def test_an_old_backlog_and_a_worker_behind_are_troubles() -> None:
    nothing = Snapshot(5, {}, {}, {})
    assert state(nothing, row(queue_behind_s=59)) == "healthy"
    assert state(nothing, row(), row(queue_behind_s=61)) == "degraded"
    behind = row(config_revision=4, config_checked_s=0.5)
    assert _lag_ms(behind, NOW + timedelta(seconds=2), 5) == 2500
    assert state(nothing, behind, now=NOW + timedelta(seconds=2)) == "healthy"
    assert state(nothing, row(), behind, now=NOW + timedelta(seconds=6)) == "degraded"
    assert _lag_ms(row(), NOW + timedelta(seconds=6), 5) == 0


def test_the_latest_look_at_a_provider_counts_whoever_made_it() -> None:
    provider = facts(base_url="http://127.0.0.1:9")
    current = Snapshot(5, {"lab": provider}, {}, {})
    listings.remember(Listing(provider, {}, 0.0, 0.0, NOW, 3, error="gone", error_kind="network"))
    later = NOW.timestamp() + 1
    ((_, found),) = health.overall(current, [{"lab": ["healthy", 2, later], "other": [1, 2, 3]}])
    assert found == ("healthy", 2, later)
    ((_, found),) = health.overall(current, [{"lab": ["healthy", 2, later - 2]}])
    assert found.status == "unavailable"


def test_an_ordinary_key_is_told_how_many_models_it_may_use() -> None:
    provider = facts()
    current = Snapshot(5, {"lab": provider}, {("lab", "a"): DeploymentFacts()}, {})
    listings.remember(Listing(provider, {}, 0.0, 0.0, NOW, 3))
    for caller, models in ((ANYONE, 1), (Caller("ci", models=("lab/b",)), 0)):
        (told,) = _status(current, read(row()), caller)["providers"]
        assert told == {"name": "lab", "status": "healthy", "models": models}


@pytest.mark.django_db
def test_workers_not_heard_of_lately_are_none() -> None:
    for name, age in (("new", 1), ("old", 31)):
        row(name=name, seen_at=timezone.now() - timedelta(seconds=age)).save()
    assert [worker.name for worker, _ in living_workers()] == ["new"]


@pytest.mark.django_db
def test_totals_are_of_all_time_and_costs_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usage.totals._earlier", None)
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    for days, key in ((0, "a"), (0, "b"), (1, "a"), (400, "a")):
        HourlyUsage.objects.create(
            hour=hour - timedelta(days=days), key=key, model="m", requests=3, cost_usd="0.5"
        )
    assert all_requests() == 12
    assert (str(cost_today(None)), str(cost_today("a"))) == ("1.000000000000", "0.500000000000")
    HourlyUsage.objects.filter(hour__gte=hour).update(requests=4)
    assert all_requests() == 14


@pytest.fixture
def alone(tmp_path: Path, spare_database_url: str) -> Iterator[Gateway]:
    with scripted_upstream(whole(200, completion())) as upstream:
        gateway = Gateway(tmp_path, spare_database_url)
        gateway.apply(configured(upstream.base_url))
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def test_a_change_is_in_force_and_told_within_seconds(alone: Gateway) -> None:
    before = status(alone)["workers"][0]["config_revision"]
    alone.execute("UPDATE providers_provider SET max_retries = 2 WHERE name = 'scripted'")
    wait_until(lambda: status(alone)["workers"][0]["config_revision"] > before, seconds=5)
    assert status(alone)["workers"][0]["lag_ms"] == 0


@pytest.mark.once
def test_without_its_tables_status_is_503_and_metrics_go_on(alone: Gateway) -> None:
    status(alone)
    alone.execute("ALTER TABLE usage_hourlyusage RENAME TO away")
    headers = {"authorization": f"Bearer {ADMIN}"}
    answered = alone.call("GET", "/v1/status", headers=headers)
    assert answered.status == 503
    assert answered.json()["error"]["code"] == "database_unavailable"
    assert answered.headers["retry-after"]
    alone.chat({"model": "smart", "messages": [{"role": "user", "content": "x"}]})

    def depth() -> bool:
        body = alone.call("GET", "/metrics", headers=headers).body
        return b"abstractcore_usage_queue_depth 1.0" in body

    wait_until(depth, seconds=10)
    alone.execute("ALTER TABLE away RENAME TO usage_hourlyusage")
    wait_until(lambda: status(alone)["total_requests"] == 1, seconds=20)


def test_requests_at_local_models_are_added_up_over_workers() -> None:
    workers = [
        Gauges(at=0.0, pid=1, local_requests={"smollm2": 2, "idle": 0}),
        Gauges(at=0.0, pid=2, local_requests={"smollm2": 1}),
    ]
    samples = _local_models(workers).samples
    assert {each.labels["model"]: each.value for each in samples} == {"idle": 0, "smollm2": 3}
