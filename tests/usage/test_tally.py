"""What workers count for metrics: each line once, whoever is killed, and wherever."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from chat.types import TokenCounts
from events_app.publishing import install_sink, publish
from providers import snapshot
from providers.http import Timeouts
from providers.snapshot import DeploymentFacts, ProviderFacts, Snapshot
from tests.usage.requests import PRICES, opened, serve
from usage import tally as tally_module
from usage.journal import Journal
from usage.lines import Line, Progress
from usage.metering import AUTH_FAILURES, COST, EVENTS, OTHER, REQUESTS, TOKENS, Series
from usage.models import UsageRecord, Worker
from usage.recorder import Recorder
from usage.tally import Tally, add_up, note

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    facts = ProviderFacts("openai", "openai", True, "", "", Timeouts(), 0, {})
    known = {("openai", "gpt-4o-mini"): DeploymentFacts()}
    before = snapshot.current()
    snapshot.install(Snapshot(1, {"openai": facts}, known, {"smart": ()}))
    yield
    snapshot.install(before)


def worker(directory: Path, metrics: Path, name: str) -> tuple[Journal, Recorder, list[Line]]:
    """One at work, and what its listeners are told."""
    journal = Journal(directory, name, 1 << 30)
    told: list[Line] = []
    return journal, Recorder(journal, Tally(metrics, journal.name), [told.extend]), told


def die(journal: Journal) -> None:
    """As the kernel does it to a killed process: locks and descriptors go, files stay."""
    os.close(journal._lock_fd)
    for segment in journal._segments:
        os.close(segment.fd)
    journal._shut = True


def counted(series: Series) -> dict[str, Any]:
    requests = series.counters.get(REQUESTS.name, {})
    tokens = series.counters.get(TOKENS.name, {})
    by_status: dict[str, int] = {}
    for labels, count in requests.items():
        by_status[labels[4]] = by_status.get(labels[4], 0) + count
    return {
        "status": by_status,
        "input": sum(count for labels, count in tokens.items() if labels[2] == "input"),
        "output": sum(count for labels, count in tokens.items() if labels[2] == "output"),
        "cost": sum(series.counters.get(COST.name, {}).values()),
    }


def in_the_ledger() -> dict[str, Any]:
    rows = list(UsageRecord.objects.all())
    statuses = [row.status for row in rows]
    cost = sum((row.cost_usd for row in rows if row.cost_usd is not None), Decimal())
    return {
        "status": {status: statuses.count(status) for status in set(statuses)},
        "input": sum(row.tokens_input for row in rows),
        "output": sum(row.tokens_output for row in rows),
        "cost": int(cost * 10**12),
    }


def assert_agreement(metrics: Path) -> None:
    assert counted(add_up(metrics)) == in_the_ledger()


def test_sums_are_the_ledgers(directory: Path, metrics: Path) -> None:
    journal, recorder, told = worker(directory, metrics, "one")
    dice = random.Random(5)
    for number in range(300):
        line = opened(price=dice.choice([PRICES, None]), provider=dice.choice(["openai", "p"]))
        journal.open(line)
        counts = TokenCounts(input=dice.randrange(9999), output=dice.randrange(999))
        journal.close(line.end(status=dice.choice(["success", "error", "aborted"]), counts=counts))
        if number % 70 == 0:
            recorder.flush()
    recorder.stop()
    assert_agreement(metrics)
    assert len(told) == 300


def test_a_crash_between_commit_and_forgetting_counts_nothing_twice(
    directory: Path, metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, recorder, told = worker(directory, metrics, "one")
    serve(journal, 4)
    with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
        crash.setattr(journal, "forget", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        recorder.flush()
    serve(journal, 2)
    recorder.flush()
    assert_agreement(metrics)
    assert len(told) == 6


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("counted_before", [False, True])
def test_a_killed_workers_requests_count_once(
    directory: Path,
    metrics: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    recorded: bool,
    counted_before: bool,
) -> None:
    """Wherever it was killed: before or after its rows were in the database, or counted."""
    journal, recorder, _ = worker(directory, metrics, "doomed")
    serve(journal, 3)
    recorder.flush()
    journal.open(cut_off := opened())
    journal.progress(Progress(id=cut_off.id, tokens_output_estimate=5))
    serve(journal, 5)
    with monkeypatch.context() as crash:
        crash.setattr(journal, "forget", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        if not counted_before:
            crash.setattr(Tally, "save", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        if recorded or counted_before:
            with pytest.raises(KeyboardInterrupt):
                recorder.flush()
    die(journal)
    _, heir, told = worker(directory, metrics, "heir")
    heir.adopt_orphans(seconds=20)
    assert UsageRecord.objects.count() == 9
    assert_agreement(metrics)
    assert len(told) == (1 if counted_before else 6)
    assert {path.name for path in metrics.glob("doomed*")} == set()


def test_an_heir_that_is_killed_too_has_counted_nothing_twice(
    directory: Path, metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, recorder, _ = worker(directory, metrics, "doomed")
    serve(journal, 5)
    journal.open(opened())
    recorder.flush()
    serve(journal, 5)
    die(journal)
    for moment in ("end", "absorb"):
        heir_journal, heir, _ = worker(directory, metrics, f"heir-{moment}")
        with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
            crash.setattr(Tally, moment, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            heir.adopt_orphans(seconds=20)
        die(heir_journal)
    _, last, _ = worker(directory, metrics, "last")
    last.adopt_orphans(seconds=20)
    assert UsageRecord.objects.count() == 11
    assert_agreement(metrics)
    assert len(list(metrics.glob("*.tally"))) == 1


def test_counts_that_were_taken_over_are_not_read_twice_where_the_file_is_left(
    directory: Path, metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, recorder, _ = worker(directory, metrics, "doomed")
    serve(journal, 5)
    recorder.stop()
    heir_journal, heir, _ = worker(directory, metrics, "heir")
    with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
        crash.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        heir._tally.absorb(journal.name, journals=set())  # type: ignore[union-attr]
    assert len(list(metrics.glob("*.tally"))) == 2
    assert_agreement(metrics)
    die(heir_journal)
    _, last, _ = worker(directory, metrics, "last")
    last.adopt_orphans(seconds=20)
    assert_agreement(metrics)
    assert len(list(metrics.glob("*.tally"))) == 1


def test_counts_go_on_where_the_server_before_stopped(directory: Path, metrics: Path) -> None:
    for number in range(3):
        journal, recorder, _ = worker(directory, metrics, f"run-{number}")
        serve(journal, 2)
        recorder.adopt_orphans(seconds=20)
        recorder.stop()
    assert_agreement(metrics)
    assert len(list(metrics.glob("*.tally"))) == 1


def test_what_no_database_takes_is_not_counted(directory: Path, metrics: Path) -> None:
    journal, recorder, _ = worker(directory, metrics, "one")
    serve(journal, 2)
    bad = opened(price=None)
    journal.open(bad)
    outcome = bad.end(status="success", counts=TokenCounts())
    outcome.cost_picodollars = 2**70
    journal.close(outcome)
    recorder.flush()
    assert UsageRecord.objects.count() == 2
    assert_agreement(metrics)


def test_invented_names_add_no_series(directory: Path, metrics: Path) -> None:
    """M44"""
    journal, recorder, _ = worker(directory, metrics, "one")
    serve(journal)
    serve(journal, model="smart")
    for number in range(1000):
        serve(journal, model=f"openai/bogus-{number}")
    recorder.flush()
    labels = add_up(metrics).counters[REQUESTS.name]
    assert {each[3]: count for each, count in labels.items()} == {
        "openai/gpt-4o-mini": 1,
        "smart": 1,
        OTHER: 1000,
    }


def test_events_and_what_no_line_tells_are_counted(directory: Path, metrics: Path) -> None:
    journal, recorder, _ = worker(directory, metrics, "one")
    install_sink(journal.note)
    try:
        publish("retry_attempted", {"attempt": 1}, provider="openai")
        publish("fallback_used", {"from_provider": "openai", "to_provider": "p"})
        publish("tool_completed", {"success": False})
    finally:
        install_sink(None)
    before = add_up(metrics).counters.get(AUTH_FAILURES.name, {}).get((), 0)
    note(AUTH_FAILURES)
    recorder.flush()
    counters = add_up(metrics).counters
    assert counters[AUTH_FAILURES.name][()] == before + 1
    assert counters["retries"] == {("openai",): 1}
    assert counters["fallbacks"] == {("openai", "p"): 1}
    assert counters["tool_runs"] == {("false",): 1}
    assert sum(counters[EVENTS.name].values()) == 3


def test_a_file_that_cannot_be_read_counts_for_nothing(
    directory: Path, metrics: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal, recorder, _ = worker(directory, metrics, "one")
    serve(journal)
    recorder.flush()
    (metrics / "torn.abc.tally").write_bytes(b"\x00nonsense")
    assert_agreement(metrics)
    assert "cannot be read" in caplog.text


def test_a_disk_that_is_full_costs_no_row(
    directory: Path, metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, recorder, _ = worker(directory, metrics, "one")
    serve(journal, 3)
    with monkeypatch.context() as full:
        full.setattr(tally_module, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        assert recorder.flush()
    serve(journal)
    recorder.flush()
    assert_agreement(metrics)


def test_a_killed_workers_row_of_status_goes_with_its_journal(
    directory: Path, metrics: Path
) -> None:
    journal, _, _ = worker(directory, metrics, "doomed")
    Worker.objects.create(
        name=journal.name,
        host="h",
        pid=1,
        started_at="2026-11-25T00:00:00Z",
        seen_at="2026-11-25T00:00:00Z",
        config_revision=1,
    )
    die(journal)
    _, heir, _ = worker(directory, metrics, "heir")
    heir.adopt_orphans(seconds=20)
    assert not Worker.objects.exists()
