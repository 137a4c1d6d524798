"""All that is told of requests gives one account, whoever is asked and killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.conftest import spare_database
from tests.gateway import Gateway, wait_until
from tests.operations.accounts import (
    Account,
    Reader,
    add_up,
    against_upstream,
    all_accounts,
    by_metrics,
    differences,
    samples,
    session_accounts,
    single_sessions,
    status,
    total,
    usage_rows,
)
from tests.operations.mixed import ADMIN, Moody, begin_sessions, send, send_mixed
from tests.operations.stage import a_worker, kill_a_worker, two_workers, wait_for_rest
from tests.upstream import scripted_upstream

REQUESTS = 301


class Busy(NamedTuple):
    """Two workers that have answered REQUESTS requests, one of them in a killed one's place."""

    gateway: Gateway
    sessions: list[str]
    reader: Reader
    upstream: Moody

    @property
    def account(self) -> Account:
        return add_up(usage_rows(self.gateway))


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    folder, moody = tmp_path_factory.mktemp("busy"), Moody()
    with (
        scripted_upstream(moody) as upstream,
        spare_database(folder) as url,
        two_workers(folder, url, upstream.base_url) as gateway,
    ):
        reader, sessions = Reader(gateway), begin_sessions(gateway)
        meanwhile = {REQUESTS // 2: lambda: kill_a_worker(gateway)}
        asyncio.run(send_mixed(gateway, REQUESTS, sessions, meanwhile=meanwhile))
        wait_for_rest(gateway, reader)
        yield Busy(gateway, sessions, reader, moody)
        reader.stop()


def test_all_accounts_agree(busy: Busy) -> None:
    assert differences(all_accounts(busy.gateway, busy.reader)) == []
    account = busy.account
    told = ("success", "error", "aborted", "unpriced_requests", "cost_usd", "tokens_cached")
    assert all(account[name] for name in told)
    assert account["attempts"] > account["requests"]


def test_sessions_cost_what_their_requests_do(busy: Busy) -> None:
    accounts = session_accounts(busy.gateway, busy.sessions)
    assert differences(accounts) == []
    assert single_sessions(busy.gateway, busy.sessions) == []
    assert accounts["sessions"]["cost_usd"] and accounts["sessions"]["unpriced_requests"]


def test_the_ledger_has_what_the_upstreams_counted(busy: Busy) -> None:
    assert against_upstream(usage_rows(busy.gateway), busy.upstream) == []


def test_who_reads_events_hears_each_once(busy: Busy) -> None:
    assert busy.reader.ids == sorted(set(busy.reader.ids))


def test_retries_are_counted(busy: Busy) -> None:
    found = samples(busy.gateway)
    assert total(found, "abstractcore_retries_total", provider="scripted") > REQUESTS / 20
    told = total(found, "abstractcore_events_total", type="generation_completed")
    assert told == busy.account["requests"]


def test_every_histogram_counts_what_it_is_about(busy: Busy) -> None:
    found, rows = samples(busy.gateway), busy.account
    assert total(found, "abstractcore_request_seconds_count") == rows["requests"]
    told_by_killed = rows["requests"] - rows["interrupted"]
    assert total(found, "abstractcore_overhead_seconds_count") == told_by_killed
    assert total(found, "abstractcore_upstream_seconds_count") == told_by_killed
    assert 0 < total(found, "abstractcore_time_to_first_token_seconds_count") < rows["requests"]
    assert total(found, "abstractcore_overhead_seconds_sum") < told_by_killed * 0.5


def test_every_worker_gives_the_same_answer(busy: Busy) -> None:
    answers = [by_metrics(samples(busy.gateway)) for _ in range(12)]
    assert answers == answers[:1] * 12
    names = ("status", "total_requests", "providers", "latency_ms", "cost_usd_today", "workers")

    def are_alike() -> bool:  # but for what was written between two of them
        reports = [{name: status(busy.gateway)[name] for name in names} for _ in range(12)]
        for report in reports:
            report["workers"] = [each["id"] for each in report["workers"]]
        return reports == reports[:1] * 12 and len(reports[0]["workers"]) == 2

    wait_until(are_alike, seconds=20)


def test_a_workers_end_sets_no_counter_back(busy: Busy) -> None:
    before = samples(busy.gateway)
    killed = a_worker(busy.gateway)
    os.kill(killed, signal.SIGKILL)

    def are_two_others() -> bool:
        pids = [each["pid"] for each in status(busy.gateway)["workers"]]
        return len(pids) == 2 and killed not in pids

    wait_until(are_two_others, seconds=30)
    after = samples(busy.gateway)
    for (name, labels), value in before.items():
        if name.startswith("abstractcore_") and name.endswith(("_total", "_count", "_bucket")):
            assert after[name, labels] >= value, (name, labels)
    asyncio.run(send(busy.gateway, 0, busy.sessions))
    wait_for_rest(busy.gateway, busy.reader)


def test_invented_models_add_no_series(busy: Busy) -> None:
    """M44"""
    gateway = busy.gateway
    body = {"messages": [{"role": "user", "content": "mark:whole-0"}]}

    def known() -> tuple[int, float]:
        """How many series of requests there are, and the requests of other models."""
        found = samples(gateway)
        names = [name for name, _ in found]
        name = "abstractcore_requests_total"
        return names.count(name), total(found, name, model="other")

    gateway.chat({**body, "model": "scripted/bogus"}, x_request_id="bogus")
    gateway.usage_row("bogus")
    wait_for_rest(gateway, busy.reader)
    series, others = known()
    for number in range(60):
        asked = {**body, "model": f"scripted/bogus-{number}"}
        gateway.chat(asked, x_request_id=f"bogus-{number}")
        gateway.chat({**body, "model": f"nobody/bogus-{number}"})
    for number in range(60):
        gateway.usage_row(f"bogus-{number}")
    wait_for_rest(gateway, busy.reader)
    assert known() == (series, others + 60)


def test_both_formats_are_those_of_prometheus(busy: Busy) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    headers = {"authorization": f"Bearer {ADMIN}", "accept": accept}
    answered = busy.gateway.call("GET", "/metrics", headers=headers)
    assert answered.headers["content-type"].startswith("application/openmetrics-text")
    families = text_string_to_metric_families(  # type: ignore[no-untyped-call]
        answered.body.decode()
    )
    names = {family.name for family in families}
    assert {"abstractcore_requests", "process_cpu_seconds"} <= names
    plain = busy.gateway.call("GET", "/metrics", headers={"authorization": f"Bearer {ADMIN}"})
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
