"""From the journal to the database."""

from __future__ import annotations

import gc
import json
import logging
import random
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.db.models import Count, Q, Sum

from chat.types import TokenCounts
from tests.usage.requests import NOON, PRICES, closed, opened, serve
from usage import journal as journal_module
from usage.insertion import MAX_TOKENS, record
from usage.journal import Journal
from usage.models import FAILURES, HourlyUsage, UsageRecord
from usage.recorder import Recorder

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def recorder(journal: Journal) -> Recorder:
    return Recorder(journal)


@contextmanager
def database_away() -> Iterator[None]:
    """A database that refuses the ledger's rows, by taking their table away."""
    table, elsewhere = '"usage_hourlyusage"', '"elsewhere"'
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {elsewhere}")
        try:
            yield
        finally:
            cursor.execute(f"ALTER TABLE {elsewhere} RENAME TO {table}")


def hourly_sums() -> dict[str, int]:
    names = ["requests", "failures", "unpriced_requests", "tokens_input", "tokens_output"]
    return HourlyUsage.objects.aggregate(
        **{f"{name}_": Sum(name) for name in [*names, "tokens_cached", "cost_usd"]}
    )


def record_sums() -> dict[str, int]:
    return UsageRecord.objects.aggregate(
        requests_=Count("id"),
        failures_=Count("id", filter=Q(status__in=FAILURES)),
        unpriced_requests_=Count("id", filter=Q(cost_usd=None)),
        tokens_input_=Sum("tokens_input"),
        tokens_output_=Sum("tokens_output"),
        tokens_cached_=Sum("tokens_cached"),
        cost_usd_=Sum("cost_usd"),
    )


def test_a_closed_request_becomes_a_record(journal: Journal, recorder: Recorder) -> None:
    line = opened(session_id="s-1", route="smart", worker="host-7")
    journal.open(line)
    counts = TokenCounts(input=1000, output=100, cached=400, cache_write=5, reasoning=60)
    journal.close(
        line.end(
            status="success",
            counts=counts,
            attempts=2,
            finish_reason="length",
            duration_ms=1234,
            time_to_first_token_ms=56,
        )
    )
    assert recorder.flush()
    row: dict[str, Any] = dict(UsageRecord.objects.values().get())
    assert row.pop("created_at").timestamp() == NOON
    assert row.pop("id").hex == line.id
    assert row == {
        "request_id": "req-1",
        "key": "ci",
        "session_id": "s-1",
        "route": "smart",
        "model": "openai/gpt-4o-mini",
        "provider": "openai",
        "upstream_model": "gpt-4o-mini",
        "wire": "openai",
        "endpoint": "chat.completions",
        "stream": True,
        "status": "success",
        "error_code": "",
        "finish_reason": "length",
        "attempts": 2,
        "tokens_input": 1000,
        "tokens_output": 100,
        "tokens_cached": 400,
        "tokens_cache_write": 5,
        "tokens_reasoning": 60,
        "estimated": False,
        "cost_usd": Decimal("0.00018"),  # 600 at 0.15, 400 at 0.075, 100 at 0.60 per million
        "price_source": "override:2026-01-01",
        "price_input": Decimal("0.15"),
        "price_output": Decimal("0.60"),
        "price_cached_input": Decimal("0.075"),
        "price_cache_write": None,
        "duration_ms": 1234,
        "time_to_first_token_ms": 56,
        "worker": "host-7",
    }


def test_an_unknown_price_is_recorded_as_unknown(journal: Journal, recorder: Recorder) -> None:
    """M22"""
    serve(journal, price=None)
    recorder.flush()
    row = UsageRecord.objects.get()
    assert (row.cost_usd, row.price_input, row.price_source) == (None, None, "")
    assert HourlyUsage.objects.get().unpriced_requests == 1


def test_an_open_request_is_not_recorded(journal: Journal, recorder: Recorder) -> None:
    journal.open(opened())
    assert recorder.flush()
    assert not UsageRecord.objects.exists()


def test_depth_is_zero_after_a_flush(journal: Journal, recorder: Recorder) -> None:
    serve(journal, 3)
    recorder.flush()
    assert journal.depth() == 0


def test_a_batch_recorded_twice_changes_nothing(journal: Journal, recorder: Recorder) -> None:
    lines = [closed() for _ in range(5)]
    assert record(lines) == 5
    before = hourly_sums()
    assert record(lines) == 0
    assert record([*lines, new := closed()]) == 1
    assert UsageRecord.objects.count() == 6
    assert hourly_sums()["requests_"] == before["requests_"] + 1
    assert UsageRecord.objects.filter(id=new.id).exists()


def test_a_crash_between_commit_and_truncation_counts_nothing_twice(
    journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(journal, 4)
    with monkeypatch.context() as crash, pytest.raises(KeyboardInterrupt):
        crash.setattr(journal, "forget", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        recorder.flush()
    assert journal.depth() == 4
    recorder.flush()
    assert (UsageRecord.objects.count(), hourly_sums()["requests_"]) == (4, 4)


def test_a_database_that_is_away_loses_no_row(journal: Journal, recorder: Recorder) -> None:
    """M3"""
    ids = serve(journal, 20)
    with database_away():
        assert not recorder.flush()
        ids += serve(journal, 20)
        assert not recorder.flush()
        assert journal.depth() == 40
        assert not UsageRecord.objects.exists()
    assert recorder.flush()
    assert {row.id.hex for row in UsageRecord.objects.all()} == set(ids)
    assert record_sums() == hourly_sums()


def test_an_outage_is_logged_once_and_so_is_its_end(
    journal: Journal, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    serve(journal)
    with caplog.at_level(logging.INFO, "usage"):
        with database_away():
            for _ in range(3):
                recorder.flush()
        recorder.flush()
        recorder.flush()
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO"]


def test_an_outage_does_not_fill_the_memory(
    journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M3: the backlog is on disk; a flush holds one stretch of it."""
    monkeypatch.setattr(journal_module, "READ_BYTES", 64 * 1024)
    with database_away():
        serve(journal, 500)
        recorder.flush()
        tracemalloc.start()
        try:
            for _ in range(8):
                serve(journal, 500)
                recorder.flush()
            gc.collect()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert journal.size > 3_000_000
        assert held < 100_000
    while not recorder.flush():
        pass
    assert UsageRecord.objects.count() == 4500


def test_a_flush_keeps_to_its_time(
    journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "READ_BYTES", 16 * 1024)
    serve(journal, 200)
    assert not recorder.flush(seconds=0)
    assert 0 < UsageRecord.objects.count() < 200
    while not recorder.flush(seconds=0):
        pass
    assert UsageRecord.objects.count() == 200


def test_a_stop_records_everything_and_leaves_no_file(
    journal: Journal, recorder: Recorder, directory: Path
) -> None:
    serve(journal, 7)
    recorder.stop()
    assert UsageRecord.objects.count() == 7
    assert list(directory.iterdir()) == []


def test_a_stop_without_database_leaves_the_rows_to_the_next_worker(
    journal: Journal, recorder: Recorder, directory: Path
) -> None:
    serve(journal, 7)
    with database_away():
        recorder.stop()
    heir = Journal(directory, "worker-2", max_bytes=1 << 30)
    Recorder(heir).stop()
    assert not UsageRecord.objects.exists(), "a stop has no time for others"
    heir = Journal(directory, "worker-3", max_bytes=1 << 30)
    Recorder(heir).adopt_orphans()
    heir.shut()
    assert UsageRecord.objects.count() == 7
    assert list(directory.iterdir()) == []


# --- rows a database does not take ------------------------------------------------------------


def test_texts_are_cut_to_their_columns(journal: Journal, recorder: Recorder) -> None:
    serve(journal, request_id="r" * 500, model="a\0b" + "m" * 500, key="k" * 200)
    assert recorder.flush()
    row = UsageRecord.objects.get()
    assert (len(row.request_id), len(row.key)) == (128, 100)
    assert row.model == "ab" + "m" * 298
    assert HourlyUsage.objects.get().model == row.model


@dataclass
class Rejects:
    path: Path

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.path.read_bytes().splitlines()]


@pytest.fixture
def rejects(directory: Path) -> Rejects:
    return Rejects(directory / "rejected.jsonl")


def test_numbers_beyond_any_model_are_bounded(journal: Journal, recorder: Recorder) -> None:
    line = opened(price=None)
    journal.open(line)
    journal.close(
        line.end(
            status="error",
            counts=TokenCounts(input=-5, output=2**60),
            attempts=99_999,
            duration_ms=2**40,
            time_to_first_token_ms=-1,
        )
    )
    assert recorder.flush()
    row = UsageRecord.objects.get()
    assert (row.tokens_input, row.tokens_output) == (0, MAX_TOKENS)
    assert (row.attempts, row.duration_ms, row.time_to_first_token_ms) == (2**15 - 1, 2**31 - 1, 0)


def test_a_row_the_database_refuses_is_put_aside_and_holds_up_no_other(
    journal: Journal, recorder: Recorder, rejects: Rejects, caplog: pytest.LogCaptureFixture
) -> None:
    ids = serve(journal, 2)
    bad = opened(price=None)
    journal.open(bad)
    outcome = bad.end(status="success", counts=TokenCounts())
    outcome.cost_picodollars = 2**70
    journal.close(outcome)
    ids += serve(journal, 2)
    assert recorder.flush()
    assert {row.id.hex for row in UsageRecord.objects.all()} == set(ids)
    assert [line["id"] for line in rejects.lines()] == [bad.id]
    assert [entry.levelname for entry in caplog.records] == ["ERROR"]
    assert record_sums() == hourly_sums()


def test_a_line_that_is_no_line_is_put_aside(
    journal: Journal, recorder: Recorder, directory: Path
) -> None:
    (path,) = directory.glob("*.jsonl")
    ids = serve(journal)
    torn = b'{"line":"closed","id":"x"}\n'
    path.write_bytes(path.read_bytes() + torn)
    journal._segments[-1].size += len(torn)
    assert recorder.flush()
    assert UsageRecord.objects.get().id.hex == ids[0]
    assert (directory / "rejected.jsonl").read_bytes() == torn


def test_what_was_put_aside_is_tried_again_under_another_name(
    journal: Journal, recorder: Recorder, directory: Path
) -> None:
    directory.joinpath("again-0.jsonl").write_bytes(
        b'{"line":"closed","id":"0123456789abcdef0123456789abcdef","request_id":"r","created_at":1.5'
        b',"model":"m","wire":"openai","endpoint":"e","stream":false,"status":"success"}\n'
    )
    recorder.adopt_orphans()
    assert UsageRecord.objects.get().request_id == "r"
    assert not list(directory.glob("again*"))


def test_a_table_that_takes_no_row_is_an_outage(
    journal: Journal, recorder: Recorder, rejects: Rejects
) -> None:
    lines = [opened(price=None) for _ in range(3)]
    for line in lines:
        journal.open(line)
        outcome = line.end(status="success", counts=TokenCounts())
        outcome.cost_picodollars = 2**70
        journal.close(outcome)
    assert not recorder.flush()
    assert journal.depth() == 3
    assert not rejects.path.exists()


# --- totals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_hourly_totals_are_the_sums_of_the_records(seed: int) -> None:
    dice = random.Random(seed)
    lines = [
        closed(
            status=dice.choice(["success", "error", "aborted", "interrupted"]),
            counts=TokenCounts(
                input=dice.randrange(100_000),
                output=dice.randrange(10_000),
                cached=dice.randrange(1000),
            ),
            created_at=NOON + dice.randrange(-7200, 7200) + dice.random(),
            key=dice.choice(["a", "b"]),
            provider=dice.choice(["", "p"]),
            price=dice.choice([None, PRICES]),
        )
        for _ in range(200)
    ]
    for batch in (lines[:90], lines[60:150], lines[100:], lines):
        record(batch)
    assert record_sums() == hourly_sums()
    for group in HourlyUsage.objects.all():
        alike = UsageRecord.objects.filter(
            key=group.key,
            provider=group.provider,
            model=group.model,
            created_at__gte=group.hour,
            created_at__lt=group.hour.replace(minute=59, second=59, microsecond=999_999),
        )
        cost = sum((row.cost_usd or Decimal(0) for row in alike), Decimal(0))
        assert (group.requests, group.cost_usd) == (alike.count(), cost)
