"""What a worker leaves that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from django.db.models import Sum

from chat.types import TokenCounts
from tests.usage.requests import PRICES, opened, serve
from usage import journal as journal_module
from usage.journal import Journal
from usage.lines import Progress
from usage.models import HourlyUsage, UsageRecord
from usage.recorder import Recorder

ROOT = Path(__file__).resolve().parents[2]


def worker(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.usage.worker", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
    )


def die(journal: Journal) -> None:
    """As the kernel does it to a killed process: locks and descriptors go, files stay."""
    os.close(journal._lock_fd)
    for segment in journal._segments:
        os.close(segment.fd)
    journal._shut = True


@pytest.fixture
def heir(directory: Path) -> Recorder:
    return Recorder(Journal(directory, "heir", 1 << 30))


@pytest.mark.django_db(transaction=True)
class TestAdoption:
    def test_every_request_of_a_killed_worker_is_recorded_once(
        self, directory: Path, heir: Recorder
    ) -> None:
        """M23"""
        victim = worker("write", str(directory))
        assert victim.stdout is not None
        told = [victim.stdout.readline() for _ in range(700)]
        victim.kill()
        told += victim.stdout.readlines()
        victim.stdout.close()
        victim.wait()
        told_open = {line.split()[1].decode() for line in told if line.startswith(b"opened ")}
        told_closed = {line.split()[1].decode() for line in told if line.startswith(b"closed ")}
        while not heir.adopt_orphans():
            pass
        rows = {row.id.hex: row for row in UsageRecord.objects.all()}
        # The one it was killed in the middle of may be in the journal and not told yet.
        assert told_open <= set(rows)
        assert len(rows) - len(told_open) <= 1
        assert {rows[id_].status for id_ in told_closed} == {"success"}
        assert len([row for row in rows.values() if row.status == "success"]) in (
            len(told_closed),
            len(told_closed) + 1,
        )
        assert HourlyUsage.objects.aggregate(n=Sum("requests"))["n"] == len(rows)
        heir.stop()
        assert list(directory.iterdir()) == []

    def test_an_open_request_is_billed_an_estimate_of_what_was_sent(
        self, journal: Journal, heir: Recorder
    ) -> None:
        """M23"""
        line = opened(prompt_tokens_estimate=200)
        journal.open(line)
        journal.progress(Progress(id=line.id, tokens_output_estimate=10))
        journal.progress(
            Progress(id=line.id, tokens_output_estimate=50, attempts=3, duration_ms=2000)
        )
        die(journal)
        heir.adopt_orphans()
        row = UsageRecord.objects.get()
        assert (row.status, row.estimated, row.attempts) == ("interrupted", True, 3)
        assert (row.tokens_input, row.tokens_output, row.duration_ms) == (200, 50, 2000)
        assert row.cost_usd == Decimal("0.00006")  # 200 at 0.15 and 50 at 0.60 per million
        assert HourlyUsage.objects.get().failures == 1

    def test_a_request_without_progress_is_billed_its_prompt(
        self, journal: Journal, heir: Recorder
    ) -> None:
        journal.open(opened(prompt_tokens_estimate=200))
        die(journal)
        heir.adopt_orphans()
        row = UsageRecord.objects.get()
        assert (row.tokens_input, row.tokens_output, row.attempts) == (200, 0, 1)

    def test_a_request_that_fell_back_is_billed_at_the_fallbacks_price(
        self, journal: Journal, heir: Recorder
    ) -> None:
        line = opened(prompt_tokens_estimate=1_000_000)
        journal.open(line)
        dear = type(PRICES)("override:2026-02-02", Decimal(3), Decimal(9))
        journal.progress(
            Progress(id=line.id, attempts=2, provider="claude", upstream_model="x", price=dear)
        )
        die(journal)
        heir.adopt_orphans()
        row = UsageRecord.objects.get()
        assert (row.provider, row.upstream_model, row.cost_usd) == ("claude", "x", Decimal(3))

    def test_a_live_worker_is_left_alone(self, journal: Journal, heir: Recorder) -> None:
        serve(journal, 2)
        journal.open(opened())
        heir.adopt_orphans()
        assert not UsageRecord.objects.exists()
        assert journal.depth() == 2

    def test_a_line_cut_by_the_kill_is_passed_over(
        self, journal: Journal, heir: Recorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        (id_,) = serve(journal)
        os.write(journal._segments[-1].fd, b'{"line":"opened","id":"01')
        die(journal)
        heir.adopt_orphans()
        assert UsageRecord.objects.get().id.hex == id_
        assert "middle of a line" in caplog.text

    def test_a_request_closed_in_a_later_segment_is_not_interrupted(
        self, journal: Journal, heir: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 2000)
        journal._rotate_at = 2000
        long = opened()
        journal.open(long)
        serve(journal, 20)
        journal.close(long.end(status="success", counts=TokenCounts()))
        die(journal)
        heir.adopt_orphans()
        assert set(UsageRecord.objects.values_list("status", flat=True)) == {"success"}
        assert UsageRecord.objects.count() == 21

    def test_an_adoption_that_stopped_half_way_begins_again(
        self, journal: Journal, heir: Recorder, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journal_module, "READ_BYTES", 4096)
        serve(journal, 40)
        journal.open(opened())
        die(journal)
        assert not heir.adopt_orphans(seconds=0)
        assert 0 < UsageRecord.objects.count() < 41
        heir.stop()
        other = Recorder(Journal(directory, "other", 1 << 30))
        while not other.adopt_orphans(seconds=0.2):
            pass
        assert HourlyUsage.objects.aggregate(n=Sum("requests"))["n"] == 41
        assert UsageRecord.objects.count() == 41
        other.stop()
        assert list(directory.iterdir()) == []

    def test_what_others_left_counts_towards_the_bound(
        self, journal: Journal, directory: Path
    ) -> None:
        serve(journal, 10)
        neighbour = Journal(directory, "neighbour", max_bytes=2000)
        assert neighbour.is_writable()
        Recorder(neighbour).flush()
        assert not neighbour.is_writable()
        neighbour.shut()


def test_two_workers_record_into_one_database_and_adopt_a_third(
    directory: Path, spare_database_url: str
) -> None:
    journal = Journal(directory, "third", 1 << 30)
    serve(journal, 300)
    journal.open(opened())
    die(journal)
    surroundings = {
        "DATABASE_URL": spare_database_url,
        "DJANGO_SETTINGS_MODULE": "gateway_site.settings",
    }
    assert _output(worker("report", **surroundings)) == [b"0", b"0", b"0", b"0", b"0"]
    pair = [worker("record", str(directory), "100", **surroundings) for _ in range(2)]
    for process in pair:
        _output(process)
    records, requests, cost, hourly_cost, interrupted = _output(worker("report", **surroundings))
    assert (records, requests, interrupted) == (b"501", b"501", b"1")
    assert cost == hourly_cost
    assert list(directory.iterdir()) == []


def _output(process: subprocess.Popen[bytes]) -> list[bytes]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output.split()
