"""Breakers in the database, where all workers share them."""

from __future__ import annotations

import time
from datetime import datetime

from django.db import models
from django.db.models.functions import Now

from providers.breaker import Bucket, Limits, Standing, State, Window


class CircuitBreaker(models.Model):
    """How one deployment has fared lately. Times are the database's: machines' clocks differ."""

    provider = models.CharField(max_length=100)
    model = models.CharField(max_length=200)
    state = models.CharField(max_length=16, choices=[(s.value, s.value) for s in State])
    until = models.DateTimeField(null=True)
    version = models.BigIntegerField(default=0)
    calls = models.JSONField(default=list)
    """`Bucket`s of the window, oldest first."""
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["provider", "model"], name="circuit_breaker_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"

    def standing(self, ahead_s: float) -> Standing:
        """`ahead_s`: how far the database's clock is ahead of this machine's."""
        until = self.until.timestamp() - ahead_s if self.until is not None else 0.0
        return Standing(State(self.state), until, self.version)

    def failures(self, limits: Limits, now: datetime) -> int:
        """In the window that ends `now`; of one that is not closed, those that opened it."""
        if self.state != State.CLOSED:
            return self.failures_of_all()
        return Window(limits.window_s, self.buckets()).counts(now.timestamp())[1]

    def failures_of_all(self) -> int:
        return sum(bucket.failures for bucket in self.buckets())

    def change(self, state: State, until: datetime | None) -> None:
        """A new standing, unsaved. What was counted before is over when it closes."""
        if state == State.CLOSED:
            self.calls = []
        self.state, self.until = state, until
        # Rows are deleted and come again: numbers from 0 on would be behind those of the first.
        self.version = max(self.version + 1, round(time.time() * 1000))
        self.changed_at = Now()

    def buckets(self) -> list[Bucket]:
        return [Bucket(*bucket) for bucket in self.calls]
