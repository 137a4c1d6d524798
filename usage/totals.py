"""Sums over the hourly rollups: what every page of totals shows, without touching the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

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
