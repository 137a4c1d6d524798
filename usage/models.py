"""The ledger's rows. Written by the journal's recorder only; nothing edits them."""

from __future__ import annotations

from django.db import models

from usage.fields import UsdField


class Status(models.TextChoices):
    SUCCESS = "success", "Success"
    ERROR = "error", "Error"
    ABORTED = "aborted", "Left by the caller"
    INTERRUPTED = "interrupted", "Cut off by the end of a worker"


FAILURES: tuple[str, ...] = (Status.ERROR, Status.INTERRUPTED)
"""What totals count as failures: a caller who leaves is none."""


class UsageRecord(models.Model):
    """One request that reached the point of asking an upstream.

    `id` is made by the gateway and makes recording idempotent; `request_id` may be the caller's
    own and need not be unique. Token counts are in tokens, prices in USD per million tokens,
    `cost_usd` is null where the price is unknown.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    request_id = models.CharField(max_length=128, db_index=True)
    created_at = models.DateTimeField()
    key = models.CharField(max_length=100, blank=True)
    session_id = models.CharField(max_length=100, blank=True)
    route = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=300, help_text="The public name asked for.")
    provider = models.CharField(max_length=100, blank=True)
    upstream_model = models.CharField(max_length=200, blank=True)
    wire = models.CharField(max_length=16)
    endpoint = models.CharField(max_length=40)
    stream = models.BooleanField()
    status = models.CharField(max_length=12, choices=Status.choices)
    error_code = models.CharField(max_length=100, blank=True)
    finish_reason = models.CharField(max_length=32, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    tokens_input = models.BigIntegerField(default=0)
    tokens_output = models.BigIntegerField(default=0)
    tokens_cached = models.BigIntegerField(default=0)
    tokens_cache_write = models.BigIntegerField(default=0)
    tokens_reasoning = models.BigIntegerField(default=0)
    estimated = models.BooleanField(default=False)
    cost_usd = UsdField(null=True)
    price_source = models.CharField(max_length=100, blank=True)
    price_input = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    price_output = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    price_cached_input = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    price_cache_write = models.DecimalField(max_digits=14, decimal_places=6, null=True)
    duration_ms = models.PositiveIntegerField(default=0)
    time_to_first_token_ms = models.PositiveIntegerField(null=True)
    worker = models.CharField(max_length=64, blank=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="usage_newest"),
            models.Index(fields=["key", "-created_at", "-id"], name="usage_key_newest"),
            models.Index(
                fields=["session_id"], name="usage_session", condition=~models.Q(session_id="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.request_id} {self.model}"


class HourlyUsage(models.Model):
    """Totals of one hour by key, provider and model: what every page and summary reads."""

    hour = models.DateTimeField()
    key = models.CharField(max_length=100, blank=True)
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=300)
    requests = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)
    unpriced_requests = models.BigIntegerField(default=0)
    tokens_input = models.BigIntegerField(default=0)
    tokens_output = models.BigIntegerField(default=0)
    tokens_cached = models.BigIntegerField(default=0)
    tokens_cache_write = models.BigIntegerField(default=0)
    tokens_reasoning = models.BigIntegerField(default=0)
    cost_usd = UsdField(default=0)

    class Meta:
        ordering = ["-hour"]
        verbose_name_plural = "hourly usage"
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "key", "provider", "model"], name="hourly_usage_unique"
            ),
        ]
        indexes = [models.Index(fields=["key", "hour"], name="hourly_usage_key")]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} {self.key} {self.provider}/{self.model}"


class Worker(models.Model):
    """A worker process as it was when it last wrote its row: what `/v1/status` adds up.

    `name` is its journal's. `seen_at` is the database's own time, so that machines with different
    clocks agree on who lives. `latencies` are counts by minute and bucket (`usage.recent`),
    `providers` what its providers answered last: status, number of models, seconds since 1970.
    """

    name = models.CharField(max_length=100, primary_key=True)
    host = models.CharField(max_length=100)
    pid = models.PositiveIntegerField()
    version = models.CharField(max_length=40)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    config_revision = models.BigIntegerField()
    config_checked_s = models.FloatField(default=0)
    """How long before `seen_at` the worker last found its configuration to be the database's."""
    in_flight = models.PositiveIntegerField(default=0)
    queue_depth = models.PositiveIntegerField(default=0)
    queue_behind_s = models.FloatField(default=0)
    journal_bytes = models.BigIntegerField(default=0)
    latencies = models.JSONField(default=dict)
    providers = models.JSONField(default=dict)

    class Meta:
        ordering = ["started_at", "name"]

    def __str__(self) -> str:
        return self.name
