"""`GET /v1/status`: how the gateway is, over all its workers and machines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from chat.errors import ServiceUnavailable
from gateway_api.answers import AnyAnswer, json_answer
from gateway_api.async_view import AsyncAPIView
from gateway_api.circuits import told_breakers
from gateway_api.native.status_schema import STATUS
from gateway_api.openai.schema import ERROR_RESPONSES
from gateway_api.resources import configuration
from gateway_api.schemas import only
from keys.caller import Caller
from providers import discovery, health, snapshot
from providers.breaker import State
from providers.breaker_rows import CircuitBreaker
from providers.breaker_store import all_breakers
from providers.database import in_database
from providers.health import Checked
from providers.snapshot import ProviderFacts, Snapshot
from sessions_app.activity import active_sessions
from usage.fields import usd_text
from usage.heartbeat import living_workers
from usage.models import Worker
from usage.recent import percentiles
from usage.summaries import rfc3339
from usage.totals import all_requests, cost_today

TIMEOUT_S = 5.0
BACKLOG_S = 60.0
"""A journal that has been recorded last so long ago is a trouble."""
LAG_MS = 5000
"""So is a worker that has not the database's configuration for so long."""
SESSION_HOURS = 1


@dataclass(frozen=True, slots=True)
class _Read:
    """What the database knows, at one moment."""

    workers: Sequence[tuple[Worker, datetime]]
    revision: int
    total_requests: int
    cost_today: Decimal
    active_sessions: int
    breakers: Sequence[tuple[CircuitBreaker, datetime]]


class StatusView(AsyncAPIView):
    """The same answer whichever worker gives it. Asks no upstream."""

    @extend_schema(
        operation_id="status",
        summary="Status of the gateway",
        description="Over all workers and machines. An ordinary key is told its own cost.",
        responses={(200, "application/json"): STATUS, **only(ERROR_RESPONSES, 401, 503)},
        tags=["Operations"],
    )
    async def get(self, request: Request) -> AnyAnswer:
        current = configuration()
        owner = None if self.caller.is_admin else self.caller.name
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await in_database(_read, owner)
        except TimeoutError:
            raise ServiceUnavailable(
                "The database does not answer in time.",
                code="database_unavailable",
                retry_after="5",
            ) from None
        return json_answer(_status(current, found, self.caller))


def _read(owner: str | None) -> _Read:
    return _Read(
        workers=living_workers(),
        revision=snapshot.read_revision(),
        total_requests=all_requests(),
        cost_today=cost_today(owner),
        active_sessions=active_sessions(timezone.now() - timedelta(hours=SESSION_HOURS)),
        breakers=all_breakers(),
    )


def _status(current: Snapshot, found: _Read, caller: Caller) -> dict[str, Any]:
    rows = [worker for worker, _ in found.workers]
    resting = {row.provider for row, _ in found.breakers if row.state != State.CLOSED}
    providers = health.overall(current, [row.providers for row in rows], resting)
    lags = [_lag_ms(row, now, found.revision) for row, now in found.workers]
    p50, p95, p99 = percentiles([row.latencies for row in rows], 0.5, 0.95, 0.99)
    circuits = told_breakers(current, found.breakers)
    began = min((row.started_at for row in rows), default=timezone.now())
    return {
        "status": _word(_is_troubled(current, providers, rows, lags) or _any_open(circuits)),
        "version": settings.VERSION,
        "uptime_seconds": max(0, round((timezone.now() - began).total_seconds())),
        "total_requests": found.total_requests,
        "active_sessions": found.active_sessions,
        "providers": [_provider(current, *each, caller) for each in providers],
        "circuit_breakers": {
            name: told if caller.is_admin else {"state": told["state"]}
            for name, told in circuits.items()
            if caller.is_admin or caller.may_use(name)
        },
        "workers": [_worker(row, lag, caller) for row, lag in zip(rows, lags, strict=True)],
        "usage_queue_depth": sum(row.queue_depth for row in rows),
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99},
        "cost_usd_today": usd_text(found.cost_today),
    }


def _word(troubled: bool) -> str:
    return "degraded" if troubled else "healthy"


def _any_open(circuits: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(told["state"] != State.CLOSED for told in circuits.values())


def _is_troubled(
    current: Snapshot,
    providers: Sequence[tuple[ProviderFacts, Checked]],
    rows: Sequence[Worker],
    lags: Sequence[int],
) -> bool:
    return (
        any(
            each.status == "unavailable" and health.is_wanted(current, provider)
            for provider, each in providers
        )
        or any(row.queue_behind_s > BACKLOG_S for row in rows)
        or any(lag > LAG_MS for lag in lags)
    )


def _lag_ms(worker: Worker, now: datetime, revision: int) -> int:
    """How long ago a worker last had the database's configuration: 0 where it has it."""
    if worker.config_revision == revision:
        return 0
    return round(((now - worker.seen_at).total_seconds() + worker.config_checked_s) * 1000)


def _provider(
    current: Snapshot, provider: ProviderFacts, checked: Checked, caller: Caller
) -> dict[str, Any]:
    """`models` is how many the caller may use."""
    models = checked.models
    if provider.usable and not caller.may_use_all(provider.name):
        offered = discovery.offered(current, provider)
        models = sum(caller.may_use(target.public_name) for target, _ in offered)
    return {"name": provider.name, "status": checked.status, "models": models}


def _worker(worker: Worker, lag_ms: int, caller: Caller) -> dict[str, Any]:
    """Its name tells of the machine, so that other keys than an admin's are told a part of it."""
    told = {
        "id": worker.name.rpartition(".")[2],
        "config_revision": worker.config_revision,
        "lag_ms": lag_ms,
    }
    if not caller.is_admin:
        return told
    return told | {
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "started_at": rfc3339(worker.started_at),
        "last_seen": rfc3339(worker.seen_at),
        "in_flight": worker.in_flight,
        "queue_depth": worker.queue_depth,
        "queue_behind_seconds": worker.queue_behind_s,
        "journal_bytes": worker.journal_bytes,
    }
