"""Percentiles over the last minutes of several workers."""

from __future__ import annotations

import json
import time

import pytest

from tests.usage.requests import closed
from usage.lines import Line
from usage.recent import MINUTES, Recent, percentiles


def took(milliseconds: int, *, status: str = "success", ago: float = 0) -> Line:
    line = closed(status=status, created_at=time.time() - ago - milliseconds / 1000)
    line.duration_ms = milliseconds
    return line


def test_percentiles_are_right_within_five_percent_over_workers() -> None:
    workers = [Recent(), Recent()]
    for number in range(1, 2001):
        workers[number % 2].add([took(number)])
    counts = [json.loads(json.dumps(each.counts())) for each in workers]
    p50, p95, p99 = percentiles(counts, 0.5, 0.95, 0.99)
    assert p50 == pytest.approx(1000, rel=0.05)
    assert p95 == pytest.approx(1900, rel=0.05)
    assert p99 == pytest.approx(1980, rel=0.05)


def test_only_answers_of_the_last_minutes_count() -> None:
    recent = Recent()
    recent.add([took(5, status="error"), took(7, status="aborted")])
    recent.add([took(9, ago=60 * (MINUTES + 1))])
    assert percentiles([recent.counts()], 0.5) == [None]
