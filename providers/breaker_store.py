"""How workers share breakers through the database.

A row is there since its deployment first failed; nothing is written while calls succeed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from django.db import Error, transaction
from django.db.models import Q
from django.db.models.functions import Now

from providers.breaker import CLOSED, Bucket, Limits, Standing, State, Window
from providers.breaker_rows import CircuitBreaker
from providers.breakers import Key, StoreAway, Told
from providers.database import in_database
from providers.models import Deployment

MAX_ROWS = 1000
"""Callers may name any model of a provider that fails; beyond so many only what is configured is
shared, and of the rest each worker has its own."""
RECENT = timedelta(seconds=10)
KEPT = timedelta(days=1)

P = ParamSpec("P")
T = TypeVar("T")


class DatabaseStore:
    """See `breakers.Store`."""

    async def tell(
        self, key: Key, limits: Limits, calls: Sequence[Bucket], *, opens: bool = False
    ) -> Told:
        return await _ask(_tell, key, limits, calls, opens=opens)

    async def begin_trial(self, key: Key, until: float) -> Told:
        return await _ask(_begin_trial, key, until)

    async def end_trial(self, key: Key, limits: Limits, *, answered: bool | None) -> Told:
        return await _ask(_end_trial, key, limits, answered)

    async def changed(self) -> Mapping[Key, Standing]:
        return await _ask(_changed)


async def _ask(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    try:
        return await in_database(function, *args, **kwargs)
    except Error as error:
        raise StoreAway from error


def all_breakers() -> list[tuple[CircuitBreaker, datetime]]:
    """Every row, and the database's time now."""
    return [(row, row.now) for row in CircuitBreaker.objects.annotate(now=Now())]


def _tell(key: Key, limits: Limits, calls: Sequence[Bucket], *, opens: bool) -> Told:
    with transaction.atomic():
        row, now = _locked(key)
        if row is None:
            return Told(_alone(limits) if opens else CLOSED, opens)
        ahead_s = now.timestamp() - time.time()
        window = Window(limits.window_s, row.buckets())
        for start, made, failed in calls:
            window.add(start + ahead_s, calls=made, failures=failed)
        row.calls = window.buckets(now.timestamp())
        counts = window.counts(now.timestamp())
        changes = row.state == State.CLOSED and (opens or limits.are_passed(*counts))
        if changes:
            row.change(State.OPEN, now + timedelta(seconds=limits.open_s))
        row.save()
        return Told(row.standing(ahead_s), changes, failures=counts[1])


def _begin_trial(key: Key, until: float) -> Told:
    with transaction.atomic():
        row, now = _locked(key)
        ahead_s = now.timestamp() - time.time()
        if row is None:
            return Told(Standing(State.HALF_OPEN, until), changed=True)
        begins = row.state != State.CLOSED and (row.until is None or row.until <= now)
        if begins:
            row.change(State.HALF_OPEN, _moment(until + ahead_s))
            row.save()
        return Told(row.standing(ahead_s), begins, row.failures_of_all())


def _end_trial(key: Key, limits: Limits, answered: bool | None) -> Told:
    with transaction.atomic():
        row, now = _locked(key)
        if row is None:
            return Told(CLOSED if answered else _alone(limits), changed=True)
        wanted, failures = State.CLOSED if answered else State.OPEN, row.failures_of_all()
        ends = row.state != wanted
        rest = timedelta(seconds=limits.open_s if answered is False else 0)
        row.change(wanted, None if answered else now + rest)
        row.save()
        return Told(row.standing(now.timestamp() - time.time()), ends, failures)


def _changed() -> dict[Key, Standing]:
    rows = CircuitBreaker.objects.filter(
        ~Q(state=State.CLOSED) | Q(changed_at__gte=Now() - RECENT)
    ).annotate(now=Now())
    found: dict[Key, Standing] = {}
    for row in rows:
        ahead_s = row.now.timestamp() - time.time()
        found[row.provider, row.model] = row.standing(ahead_s)
    return found


def _locked(key: Key) -> tuple[Any, datetime]:
    """The row of a deployment, made where it is not there, and the database's time; None where
    there are too many."""
    provider, model = key[0][:100], key[1][:200]
    rows = CircuitBreaker.objects.filter(provider=provider, model=model)
    row = rows.select_for_update().annotate(now=Now()).first()
    if row is not None:
        return row, row.now
    CircuitBreaker.objects.filter(state=State.CLOSED, changed_at__lt=Now() - KEPT).delete()
    if CircuitBreaker.objects.count() >= MAX_ROWS and not _is_configured(provider, model):
        return None, datetime.now(UTC)
    CircuitBreaker.objects.bulk_create(
        [CircuitBreaker(provider=provider, model=model, state=State.CLOSED)], ignore_conflicts=True
    )
    row = rows.select_for_update().annotate(now=Now()).get()
    return row, row.now


def _is_configured(provider: str, model: str) -> bool:
    return Deployment.objects.filter(provider__name=provider, model=model).exists()


def _alone(limits: Limits) -> Standing:
    return Standing(State.OPEN, time.time() + limits.open_s)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
