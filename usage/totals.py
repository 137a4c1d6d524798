"""Sums over the hourly rollups: what every page of totals shows, without touching the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from time import monotonic

from django.db.models import QuerySet, Sum

from usage.fields import usd_text
from usage.models import HourlyUsage

_COUNTS = (
    "requests",
    "failures",
    "unpriced_requests",
    "tokens_input",
    "tokens_output",
    "tokens_cached",
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of requests and tokens; `cost_usd` leaves out the unpriced requests."""

    requests: int
    failures: int
    unpriced_requests: int
    tokens_input: int
    tokens_output: int
    tokens_cached: int
    cost_usd: Decimal

    @property
    def cost(self) -> str:
        return cost_text(
            self.cost_usd, requests=self.requests, unpriced_requests=self.unpriced_requests
        )


def add_up(rows: QuerySet[HourlyUsage]) -> Totals:
    """The totals of some rollups, in one query."""
    sums = rows.aggregate(**{name: Sum(name) for name in (*_COUNTS, "cost_usd")})
    counts = {name: int(sums[name] or 0) for name in _COUNTS}
    return Totals(cost_usd=sums["cost_usd"] or Decimal(), **counts)


_earlier: tuple[datetime, float, int] | None = None
"""Requests before a moment, and when they were counted (`time.monotonic`)."""
RECOUNT_S = 600.0


def all_requests() -> int:
    """Requests since the ledger began. Those of the days before yesterday are counted every
    RECOUNT_S only: what an outage has held back for so long appears with that delay."""
    global _earlier
    before = start_of(datetime.now(UTC).date() - timedelta(days=1))
    known = _earlier
    if known is None or known[0] != before or monotonic() - known[1] > RECOUNT_S:
        rows = HourlyUsage.objects.filter(hour__lt=before)
        known = _earlier = before, monotonic(), add_up(rows).requests
    return known[2] + add_up(HourlyUsage.objects.filter(hour__gte=before)).requests


def cost_today(owner: str | None) -> Decimal:
    """What a key's requests of this UTC day cost, everyone's for None; without unpriced ones."""
    rows = HourlyUsage.objects.filter(hour__gte=start_of(datetime.now(UTC).date()))
    return add_up(rows if owner is None else rows.filter(key=owner)).cost_usd


def cost_text(cost_usd: Decimal, *, requests: int, unpriced_requests: int) -> str:
    """What requests cost, in US dollars. A price nobody knows is told as unknown, never as 0."""
    if not unpriced_requests:
        return f"${usd_text(cost_usd)}"
    if unpriced_requests >= requests:
        return "unknown"
    return f"${usd_text(cost_usd)} and {unpriced_requests} of unknown price"


def start_of(day: date) -> datetime:
    """Midnight UTC, when a day of the ledger begins."""
    return datetime.combine(day, time(), UTC)


def end_of(day: date) -> datetime:
    """The first moment after a day."""
    return start_of(day + timedelta(days=1))
