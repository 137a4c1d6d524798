"""Metrics, the ledger's rows and its totals give one account, whoever is asked and killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from tests.conftest import spare_database
from tests.gateway import Gateway, wait_until
from tests.operations.stage import (
    ADMIN,
    Moody,
    a_worker,
    by_metrics,
    by_rollups,
    by_rows,
    configured,
    samples,
    send,
    send_mixed,
    status,
    total,
    wait_for_rest,
)
from tests.upstream import scripted_upstream

REQUESTS = 240


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two workers that have answered REQUESTS requests, one of them in a killed one's place."""
    folder = tmp_path_factory.mktemp("busy")
    with scripted_upstream(Moody()) as upstream, spare_database(folder) as url:
        gateway = Gateway(folder, url, workers=2)
        gateway.apply(configured(upstream.base_url))
        try:
            gateway.start()
            wait_until(lambda: len(status(gateway)["workers"]) == 2, seconds=20)
            asyncio.run(send_mixed(gateway, REQUESTS, kill_after=REQUESTS // 2))
            # Requests that found no worker at the moment of the kill reached no ledger.
            wait_for_rest(gateway, REQUESTS - 40)
            yield gateway
        finally:
            gateway.stop()


def test_all_accounts_agree(busy: Gateway) -> None:
    told, rows, totals = by_metrics(samples(busy)), by_rows(busy), by_rollups(busy)
    assert told == rows
    failures = rows["error"] + rows["interrupted"]
    assert totals == {
        "failures": failures,
        **{name: rows[name] for name in ("requests", "input", "output", "cost", "unpriced")},
    }
    assert all(rows[name] for name in ("success", "error", "aborted", "unpriced", "cost"))
    assert rows["attempts"] > rows["requests"]
    assert status(busy)["total_requests"] == rows["requests"]


def test_retries_are_counted(busy: Gateway) -> None:
    found = samples(busy)
    assert total(found, "abstractcore_retries_total", provider="scripted") > REQUESTS / 8
    told = total(found, "abstractcore_events_total", type="generation_completed")
    assert told == by_rows(busy)["requests"]


def test_every_histogram_counts_what_it_is_about(busy: Gateway) -> None:
    found, rows = samples(busy), by_rows(busy)
    assert total(found, "abstractcore_request_seconds_count") == rows["requests"]
    told_by_killed = rows["requests"] - rows["interrupted"]
    assert total(found, "abstractcore_overhead_seconds_count") == told_by_killed
    assert total(found, "abstractcore_upstream_seconds_count") == told_by_killed
    assert 0 < total(found, "abstractcore_time_to_first_token_seconds_count") < rows["requests"]
    assert total(found, "abstractcore_overhead_seconds_sum") < told_by_killed * 0.5


def test_every_worker_gives_the_same_answer(busy: Gateway) -> None:
    answers = [by_metrics(samples(busy)) for _ in range(12)]
    assert answers == answers[:1] * 12
    names = ("status", "total_requests", "providers", "latency_ms", "cost_usd_today", "workers")

    def are_alike() -> bool:  # but for what was written between two of them
        reports = [{name: status(busy)[name] for name in names} for _ in range(12)]
        for report in reports:
            report["workers"] = [each["id"] for each in report["workers"]]
        return reports == reports[:1] * 12 and len(reports[0]["workers"]) == 2

    wait_until(are_alike, seconds=20)


def test_a_workers_end_sets_no_counter_back(busy: Gateway) -> None:
    before = samples(busy)
    killed = a_worker(busy)
    os.kill(killed, signal.SIGKILL)

    def are_two_others() -> bool:
        pids = [each["pid"] for each in status(busy)["workers"]]
        return len(pids) == 2 and killed not in pids

    wait_until(are_two_others, seconds=30)
    after = samples(busy)
    for (name, labels), value in before.items():
        if name.startswith("abstractcore_") and name.endswith(("_total", "_count", "_bucket")):
            assert after[name, labels] >= value, (name, labels)
    asyncio.run(send(busy, "whole", 9999))
    busy.usage_row("whole-9999")
    wait_for_rest(busy, REQUESTS - 40)


def test_invented_models_add_no_series(busy: Gateway) -> None:
    """M44"""
    body = {"messages": [{"role": "user", "content": "x"}], "user": "whole-0"}

    def series() -> int:
        return len([1 for name, _ in samples(busy) if name == "abstractcore_requests_total"])

    busy.chat({**body, "model": "scripted/bogus"}, x_request_id="bogus")
    busy.usage_row("bogus")
    wait_for_rest(busy, REQUESTS - 40)
    known = series()
    for number in range(60):
        asked = {**body, "model": f"scripted/bogus-{number}"}
        busy.chat(asked, x_request_id=f"bogus-{number}")
        busy.chat({**body, "model": f"nobody/bogus-{number}"})
    for number in range(60):
        busy.usage_row(f"bogus-{number}")
    wait_for_rest(busy, REQUESTS - 40)
    assert series() == known
    assert total(samples(busy), "abstractcore_requests_total", model="other") == 61


def test_both_formats_are_those_of_prometheus(busy: Gateway) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    headers = {"authorization": f"Bearer {ADMIN}", "accept": accept}
    answered = busy.call("GET", "/metrics", headers=headers)
    assert answered.headers["content-type"].startswith("application/openmetrics-text")
    families = text_string_to_metric_families(  # type: ignore[no-untyped-call]
        answered.body.decode()
    )
    names = {family.name for family in families}
    assert {"abstractcore_requests", "process_cpu_seconds"} <= names
    plain = busy.call("GET", "/metrics", headers={"authorization": f"Bearer {ADMIN}"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
