"""How long the requests of the last minutes took: counts that add up over workers.

Buckets grow by a tenth, so that a percentile read off them is wrong by 5 % at most. Of answered
requests only: a failure that comes at once says nothing about how fast answers are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

from usage.lines import Closed, Line
from usage.models import Status

MINUTES = 5
_GROWTH = math.log(1.1)
Counts = Mapping[str, Mapping[str, int]]
"""By minute since 1970 and bucket, both as text: JSON knows no other names."""


class Recent:
    """One worker's counts. `add` is for the recorder's thread, `counts` for any."""

    def __init__(self) -> None:
        self._minutes: dict[str, dict[str, int]] = {}

    def add(self, lines: Sequence[Line]) -> None:
        oldest = _oldest()
        for line in lines:
            if isinstance(line, Closed) and line.status == Status.SUCCESS:
                minute = int(line.created_at + line.duration_ms / 1000) // 60
                if minute >= oldest:
                    counts = self._minutes.setdefault(str(minute), {})
                    bucket = _bucket(line.duration_ms)
                    counts[bucket] = counts.get(bucket, 0) + 1

    def counts(self) -> dict[str, dict[str, int]]:
        """What is not older than MINUTES."""
        oldest = _oldest()
        for minute in list(self._minutes):
            if int(minute) < oldest:
                self._minutes.pop(minute, None)
        return {minute: dict(counts) for minute, counts in list(self._minutes.items())}


def percentiles(workers: Iterable[Counts], *parts: float) -> list[float | None]:
    """Milliseconds below which these parts of all workers' requests took; None without any."""
    oldest = _oldest()
    total: dict[int, int] = {}
    for minutes in workers:
        for minute, counts in minutes.items():
            if int(minute) >= oldest:
                for bucket, count in counts.items():
                    total[int(bucket)] = total.get(int(bucket), 0) + count
    return [_percentile(total, part) for part in parts]


def _percentile(counts: Mapping[int, int], part: float) -> float | None:
    left = math.ceil(part * sum(counts.values()))
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0:
            return round(math.exp(bucket * _GROWTH), 1)
    return None


def _bucket(milliseconds: int) -> str:
    return str(round(math.log(max(1, milliseconds)) / _GROWTH))


def _oldest() -> int:
    return int(time.time()) // 60 - MINUTES + 1
