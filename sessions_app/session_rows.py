"""Sessions: conversations the gateway keeps, and whose turn it is in them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
from django.db import models
from django.utils import timezone


class Truncation(models.TextChoices):
    """What becomes of a conversation that is longer than its model's window."""

    ERROR = "error", "Refuse the turn"
    DROP_OLDEST = "drop_oldest", "Leave the oldest turns out"
    SUMMARISE = "summarise", "Summarise the oldest turns"


class SessionQuerySet(models.QuerySet["Session"]):
    def owned_by(self, owner: str) -> SessionQuerySet:
        """The sessions of one key. Every look-up for a caller begins here."""
        return self.filter(owner=owner)

    def active(self, *, since: datetime) -> SessionQuerySet:
        """Sessions with a turn since then."""
        return self.filter(last_turn_at__gte=since)


class Session(models.Model):
    """One conversation of a key.

    `settings` and `metadata` are JSON texts, not JSON columns: what people and models write may
    hold U+0000, which Postgres refuses in both its texts and its jsonb.
    """

    owner = models.CharField("key", max_length=100, help_text="The key that made it.")
    session_id = models.CharField(max_length=100)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now, db_index=True)
    last_turn_at = models.DateTimeField(null=True, blank=True, db_index=True)
    provider = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=300, blank=True)
    truncation = models.CharField(
        max_length=12, choices=Truncation.choices, default=Truncation.ERROR
    )
    settings = models.TextField(
        default="{}", help_text="The system prompt, and what its chats are asked with."
    )
    metadata = models.TextField(default="{}")
    last_number = models.BigIntegerField(default=0)
    message_count = models.BigIntegerField(default=0)
    total_tokens = models.BigIntegerField(default=0)
    total_picodollars = models.BigIntegerField(default=0)
    unpriced_requests = models.BigIntegerField(default=0, help_text="Not in the cost.")

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "session_id"], name="session_of_owner"),
        ]
        indexes = [models.Index(fields=["owner", "-id"], name="session_owner_newest")]

    def __str__(self) -> str:
        return self.session_id

    def read_settings(self) -> dict[str, Any]:
        """`system_prompt`, `temperature`, `max_tokens`, `tools` and their like, where given."""
        settings: dict[str, Any] = orjson.loads(self.settings)
        return settings

    def read_metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = orjson.loads(self.metadata)
        return metadata


class SessionLabel(models.Model):
    """One plain value of a session's metadata, to find the session by."""

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="labels")
    name = models.CharField(max_length=64)
    value = models.CharField(max_length=512)

    objects: models.Manager[SessionLabel] = models.Manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["session", "name"], name="label_of_session"),
        ]
        indexes = [models.Index(fields=["name", "value"], name="session_label")]

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


class SessionMessage(models.Model):
    """One message, in the OpenAI shape, with everything it came with.

    `number` orders a session's messages. What was said has even numbers; a summary stands at the
    odd number behind the last message it covers, and those before it are `compacted`: kept, but no
    longer part of what the model is told.
    """

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="messages")
    number = models.BigIntegerField()
    message_id = models.CharField(max_length=100)
    role = models.CharField(max_length=16)
    created_at = models.DateTimeField(default=timezone.now)
    incomplete = models.BooleanField(default=False, help_text="Cut off before its end.")
    compacted = models.BooleanField(default=False, help_text="A summary stands for it.")
    summary = models.BooleanField(default=False)
    provider = models.CharField(max_length=100, blank=True, help_text="Whose model said it.")
    model = models.CharField(max_length=200, blank=True)
    tokens = models.BigIntegerField(default=0, help_text="An estimate, to trim by.")
    body = models.TextField()

    objects: models.Manager[SessionMessage] = models.Manager()

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["session", "number"], name="number_in_session"),
            models.UniqueConstraint(fields=["session", "message_id"], name="message_of_session"),
        ]
        indexes = [
            models.Index(
                fields=["session", "number"],
                name="session_message_told",
                condition=models.Q(compacted=False),
            ),
        ]

    def __str__(self) -> str:
        return self.message_id

    def read(self) -> dict[str, Any]:
        """The message as it was said."""
        body: dict[str, Any] = orjson.loads(self.body)
        return body


class SessionTurn(models.Model):
    """A place in the queue for a session's next turn: they are taken in the order of their ids.

    Whoever has one renews it; a killed worker's expires. At most one of a session's `holds`.
    """

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="turns")
    expires_at = models.DateTimeField()
    holds = models.BooleanField(default=False)

    objects: models.Manager[SessionTurn] = models.Manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["session"], condition=models.Q(holds=True), name="one_turn_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pk}"
