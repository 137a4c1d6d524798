"""What happened, in the order in which it can be told."""

from __future__ import annotations

from django.db import models


class EventType(models.TextChoices):
    """The types there are; docs/events.md has the fields of each."""

    GENERATION_STARTED = "generation_started"
    GENERATION_COMPLETED = "generation_completed"
    TOOL_STARTED = "tool_started"
    TOOL_COMPLETED = "tool_completed"
    RETRY_ATTEMPTED = "retry_attempted"
    FALLBACK_USED = "fallback_used"
    CIRCUIT_OPENED = "circuit_opened"
    CIRCUIT_HALF_OPEN = "circuit_half_open"
    CIRCUIT_CLOSED = "circuit_closed"
    VALIDATION_FAILED = "validation_failed"
    SESSION_CREATED = "session_created"
    SESSION_COMPACTED = "session_compacted"
    SESSION_DELETED = "session_deleted"
    BUDGET_EXCEEDED = "budget_exceeded"
    RATE_LIMITED = "rate_limited"
    CONFIG_CHANGED = "config_changed"
    PROVIDER_STATUS_CHANGED = "provider_status_changed"
    ERROR = "error"


class Event(models.Model):
    """One thing that happened; written by the journal's recorder only, never changed.

    `id` is a cursor: rows become visible in its order, so that who has read up to one id will find
    everything else behind it (`events_app.insertion` says why). No id is ever used again, also
    after its row is gone. `line` is the journal's, and makes inserting idempotent.
    """

    id = models.BigAutoField(primary_key=True)
    line = models.UUIDField(editable=False)
    type = models.CharField(max_length=40, choices=EventType.choices)
    created_at = models.DateTimeField()
    request_id = models.CharField(max_length=128, blank=True)
    key = models.CharField(max_length=100, blank=True)
    session_id = models.CharField(max_length=100, blank=True)
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=300, blank=True)
    fields = models.JSONField(default=dict)
    """What else the type tells, flat."""

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["line", "type"], name="event_once")]
        indexes = [
            models.Index(fields=["key", "id"], name="event_key"),
            models.Index(fields=["request_id"], name="event_request"),
            models.Index(
                fields=["session_id", "id"],
                name="event_session",
                condition=~models.Q(session_id=""),
            ),
            models.Index(fields=["created_at"], name="event_age"),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.type}"
