"""What is told of circuit breakers: events, and their part of the status."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from events_app.publishing import publish
from providers.breaker import Breaker, State
from providers.breaker_rows import CircuitBreaker
from providers.snapshot import Snapshot
from usage.summaries import rfc3339


def tell_circuit(type_: str, breaker: Breaker, failures: int) -> None:
    """Publishes one of the events `circuit_opened`, `circuit_half_open` and `circuit_closed`."""
    provider, model = breaker.key
    fields = {"failures": failures, "open_for_ms": round(breaker.limits.open_s * 1000)}
    publish(type_, fields, provider=provider, model=f"{provider}/{model}")


def told_breakers(
    configuration: Snapshot, rows: Iterable[tuple[CircuitBreaker, datetime]]
) -> dict[str, dict[str, Any]]:
    """By public name: every deployment that is configured, and what else has failed lately."""
    told: dict[str, dict[str, Any]] = {
        f"{name}/{model}": {"state": State.CLOSED, "failures": 0, "open_until": None}
        for (name, model), facts in configuration.deployments.items()
        if facts.enabled and configuration.providers[name].usable
    }
    for row, now in rows:
        if row.provider in configuration.providers:
            limits = configuration.target(row.provider, row.model).breaker
            told[str(row)] = {
                "state": row.state,
                "failures": row.failures(limits, now),
                "open_until": rfc3339(row.until) if row.state == State.OPEN and row.until else None,
            }
    return told
