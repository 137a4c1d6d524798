"""The events of the ledger's lines, from the journal to their rows."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from chat.types import TokenCounts
from events_app import insertion as event_insertion
from events_app.models import Event
from events_app.publishing import install_sink, publish
from tests.usage.requests import opened, serve
from usage import journal as journal_module
from usage.journal import Journal
from usage.lines import Progress, decode, encode
from usage.models import UsageRecord
from usage.recorder import Recorder

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def recorder(journal: Journal) -> Recorder:
    return Recorder(journal)


@pytest.fixture
def sink(journal: Journal) -> Iterator[None]:
    install_sink(journal.note)
    yield
    install_sink(None)


def told() -> list[tuple[str, str]]:
    return list(Event.objects.order_by("id").values_list("type", "request_id"))


def test_a_request_is_told_of_at_its_beginning_and_at_its_end(
    journal: Journal, recorder: Recorder
) -> None:
    line = opened(has_tools=True, route="smart", session_id="s-1")
    journal.open(line)
    recorder.flush()
    started = Event.objects.get()
    assert started.type == "generation_started"
    assert started.fields == {"stream": True, "has_tools": True, "route": "smart"}
    counts = TokenCounts(input=1000, output=100, cached=400, reasoning=60)
    journal.close(
        line.end(
            status="success",
            counts=counts,
            attempts=2,
            finish_reason="stop",
            duration_ms=1500,
            time_to_first_token_ms=56,
        )
    )
    recorder.flush()
    completed = Event.objects.get(type="generation_completed")
    assert completed.id > started.id
    assert completed.fields == {
        "success": True,
        "status": "success",
        "tokens_input": 1000,
        "tokens_output": 100,
        "tokens_cached": 400,
        "tokens_reasoning": 60,
        "cost_usd": 0.00018,
        "duration_ms": 1500,
        "time_to_first_token_ms": 56,
        "finish_reason": "stop",
        "attempts": 2,
    }
    assert (completed.created_at - started.created_at).total_seconds() == 1.5
    for event in (started, completed):
        assert (event.request_id, event.key, event.session_id) == ("req-1", "ci", "s-1")
        assert (event.provider, event.model) == ("openai", "openai/gpt-4o-mini")


def test_a_failure_is_told_by_an_event_of_its_own(journal: Journal, recorder: Recorder) -> None:
    line = opened(price=None)
    journal.open(line)
    ended = line.end(status="error", counts=TokenCounts(), error_code="upstream_timeout")
    journal.close(ended)
    recorder.flush()
    completed, error = Event.objects.order_by("id")[1:]
    assert (completed.fields["success"], completed.fields["cost_usd"]) == (False, None)
    assert error.type == "error"
    assert error.fields == {"code": "upstream_timeout", "endpoint": "chat.completions"}


def test_what_is_published_stands_between_beginning_and_end(
    journal: Journal, recorder: Recorder, sink: None
) -> None:
    line = opened()
    journal.open(line)
    publish("tool_started", {"tool_name": "get_weather"}, request_id="req-1")
    journal.close(line.end(status="success", counts=TokenCounts(1, 1)))
    recorder.flush()
    types = [type_ for type_, _ in told()]
    assert types == ["generation_started", "tool_started", "generation_completed"]


def test_a_killed_workers_events_are_all_told_and_once(
    directory: Path, journal: Journal, recorder: Recorder, sink: None
) -> None:
    cut_off = opened(request_id="cut-off")
    journal.open(cut_off)
    recorder.flush()  # its beginning is told already
    serve(journal, 2)
    publish("tool_started", request_id="cut-off")
    journal.progress(Progress(id=cut_off.id, tokens_output_estimate=5, duration_ms=700))
    os.close(journal._lock_fd)
    for segment in journal._segments:
        os.close(segment.fd)
    journal._shut = True
    Recorder(Journal(directory, "heir", 1 << 30)).adopt_orphans(seconds=20)
    assert told() == [
        ("generation_started", "cut-off"),
        *[("generation_started", "req-1"), ("generation_completed", "req-1")] * 2,
        ("tool_started", "cut-off"),
        ("generation_completed", "cut-off"),
        ("error", "cut-off"),
    ]
    last = Event.objects.get(type="generation_completed", request_id="cut-off")
    assert (last.fields["status"], last.fields["tokens_output"]) == ("interrupted", 5)


def test_lines_carried_into_a_new_segment_are_told_once(
    journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    journal._rotate_at = 1000
    journal.open(opened(request_id="long"))
    serve(journal, 30)
    recorder.flush()
    assert told().count(("generation_started", "long")) == 1
    assert Event.objects.count() == 61


def test_sums_over_events_are_the_ledgers(journal: Journal, recorder: Recorder) -> None:
    for number in range(1, 40):
        line = opened()
        journal.open(line)
        counts = TokenCounts(input=number * 7, output=number * 3)
        journal.close(line.end(status="success", counts=counts))
    recorder.flush()
    rows = UsageRecord.objects.all()
    fields = [event.fields for event in Event.objects.filter(type="generation_completed")]
    for name in ("tokens_input", "tokens_output"):
        assert sum(each[name] for each in fields) == sum(getattr(row, name) for row in rows)
    cost = sum(Decimal(str(each["cost_usd"])) for each in fields)
    assert cost == sum(row.cost_usd or 0 for row in rows)


def test_an_event_that_no_table_takes_does_not_hold_up_the_ledger(
    journal: Journal, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = event_insertion.insert

    def refuse(lines: Any) -> None:
        if any(line.type == "generation_started" for line in lines):
            raise ValueError("no")
        insert(lines)

    monkeypatch.setattr(event_insertion, "insert", refuse)
    serve(journal, 3)
    assert recorder.flush()
    assert [type_ for type_, _ in told()] == ["generation_completed"] * 3
    assert (journal.depth(), UsageRecord.objects.count()) == (0, 3)


def test_an_event_without_end_is_kept_short(journal: Journal, sink: None) -> None:
    publish("validation_failed", {"error": "x" * 100_000, "deep": {"y": "z" * 100_000}})
    stretch = journal.read()
    assert stretch is not None
    line: Any = decode(stretch.lines[0])
    assert len(encode(line)) < 1000
    assert line.fields["error"] == "x" * 300


def test_nothing_is_published_where_no_journal_is_open() -> None:
    publish("config_changed", {"revision": 1})


def test_publishing_costs_its_caller_little(journal: Journal, sink: None) -> None:
    """Some 4 us on a quiet machine; the bound is for a busy one."""
    number, fields = 2000, {"tool_name": "get_weather", "call_id": "call_1", "success": True}
    started = time.thread_time()
    for _ in range(number):
        publish("tool_completed", fields, request_id="req-1", key="ci", provider="openai")
    assert (time.thread_time() - started) / number < 100e-6
