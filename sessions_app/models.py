"""Responses that were asked to be stored, and where their items are; sessions are in
`session_rows`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson
from django.db import models
from django.utils import timezone

from sessions_app.session_rows import Session as Session
from sessions_app.session_rows import SessionLabel as SessionLabel
from sessions_app.session_rows import SessionMessage as SessionMessage
from sessions_app.session_rows import SessionTurn as SessionTurn


class ResponseStatus(models.TextChoices):
    QUEUED = "queued", "Queued"
    IN_PROGRESS = "in_progress", "In progress"
    COMPLETED = "completed", "Completed"
    INCOMPLETE = "incomplete", "Incomplete"
    FAILED = "failed", "Failed"
    CANCELLED = "cancelled", "Cancelled"


ACTIVE: tuple[str, ...] = (ResponseStatus.QUEUED, ResponseStatus.IN_PROGRESS)
ANSWERED: tuple[str, ...] = (ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE)


class StoredResponseQuerySet(models.QuerySet["StoredResponse"]):
    def owned_by(self, owner: str) -> StoredResponseQuerySet:
        """The responses of one key. Every look-up for a caller begins here."""
        return self.filter(owner=owner)

    def abandoned(self, *, since: datetime) -> StoredResponseQuerySet:
        """Background responses whose worker has given no sign of life since then."""
        return self.filter(status__in=ACTIVE, heartbeat_at__lt=since)


class StoredResponse(models.Model):
    """One answer of the Responses API, kept for its key.

    `input` and `body` are JSON texts (the request's own input items, each with an id; the Response
    object), not JSON columns: what models write may hold U+0000, which Postgres' jsonb refuses.
    """

    owner = models.CharField("key", max_length=100, help_text="The key that made it.")
    response_id = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    status = models.CharField(max_length=12, choices=ResponseStatus.choices)
    model = models.CharField(max_length=300, help_text="The public name asked for.")
    provider = models.CharField(max_length=100, blank=True)
    upstream_id = models.CharField(
        max_length=200,
        blank=True,
        help_text="The provider's own id, where it keeps the response too and can go on from it.",
    )
    native = models.BooleanField(
        default=False, help_text="Whether the provider's own Responses API made it."
    )
    background = models.BooleanField(default=False)
    previous_response_id = models.CharField(max_length=200, blank=True)
    chain = models.CharField(
        max_length=200, blank=True, help_text="The first response of the chain it belongs to."
    )
    conversation = models.CharField(max_length=200, blank=True)
    heartbeat_at = models.DateTimeField(
        null=True, blank=True, help_text="The last sign of life of the worker that makes it."
    )
    input = models.TextField(default="[]")
    body = models.TextField(default="{}")

    objects = StoredResponseQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "response_id"], name="response_of_owner"),
        ]
        indexes = [
            models.Index(fields=["owner", "chain"], name="response_chain"),
            models.Index(fields=["response_id"], name="response_id_anybodys"),
            models.Index(
                fields=["upstream_id"],
                name="response_upstream_id",
                condition=~models.Q(upstream_id=""),
            ),
            models.Index(
                fields=["conversation", "owner"],
                name="response_conversation",
                condition=~models.Q(conversation=""),
            ),
            models.Index(
                fields=["heartbeat_at"],
                name="response_running",
                condition=models.Q(status__in=("queued", "in_progress")),
            ),
        ]

    def __str__(self) -> str:
        return self.response_id

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    def read_input(self) -> list[dict[str, Any]]:
        """The request's own input items."""
        items: list[dict[str, Any]] = orjson.loads(self.input)
        return items

    def read_body(self) -> dict[str, Any]:
        """The Response object, with the status it has by now."""
        body: dict[str, Any] = orjson.loads(self.body)
        body["status"] = self.status
        return body

    def read_items(self) -> list[dict[str, Any]]:
        """What it adds to the history of those that follow: its input, then its output."""
        return [*self.read_input(), *self.read_output()]

    def read_output(self) -> list[dict[str, Any]]:
        """The items of the answer."""
        output = self.read_body().get("output")
        items = output if isinstance(output, list) else []
        return [item for item in items if isinstance(item, dict)]


class ResponseEvents(models.Model):
    """Some events of a background response's stream, for those who come back to it: the numbers
    `first` to `last`, their JSON texts one a line."""

    response = models.ForeignKey(StoredResponse, on_delete=models.CASCADE, related_name="events")
    first = models.PositiveIntegerField()
    last = models.PositiveIntegerField()
    ends = models.BooleanField(default=False, help_text="Whether its last event ends the stream.")
    lines = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects: models.Manager[ResponseEvents] = models.Manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["response", "first"], name="events_of_response"),
        ]

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def read_after(self, number: int) -> list[str]:
        """The JSON texts of the events after this one."""
        return self.lines.split("\n")[max(0, number + 1 - self.first) :]


class Conversation(models.Model):
    """What responses name by `conversation`. It outlives its responses: its items are its own."""

    owner = models.CharField("key", max_length=100)
    conversation_id = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    updated_at = models.DateTimeField(default=timezone.now, db_index=True)
    metadata = models.TextField(default="{}")

    objects: models.Manager[Conversation] = models.Manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "conversation_id"], name="conversation_of_owner"
            ),
        ]

    def __str__(self) -> str:
        return self.conversation_id

    def read_metadata(self) -> dict[str, str]:
        metadata: dict[str, str] = orjson.loads(self.metadata)
        return metadata


class ConversationItem(models.Model):
    """One thing that was said. The order of a conversation is that of its rows."""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="said")
    item_id = models.CharField(max_length=200)
    provider = models.CharField(
        max_length=100, blank=True, help_text="Whose own Responses API said it, if any's."
    )
    body = models.TextField()

    objects: models.Manager[ConversationItem] = models.Manager()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["conversation", "item_id"], name="item_of_conversation"
            ),
        ]

    def __str__(self) -> str:
        return self.item_id

    def read(self) -> dict[str, Any]:
        """The item, under the id it has here."""
        item: dict[str, Any] = orjson.loads(self.body)
        return item


class StoredItem(models.Model):
    """Where an item with an id is, and whose credential made it: follow-ups that carry what only
    its maker can read go back there (M40). `response` is null where it was asked not to be stored.
    """

    owner = models.CharField("key", max_length=100)
    item_id = models.CharField(max_length=200)
    provider = models.CharField(max_length=100, blank=True)
    response = models.ForeignKey(
        StoredResponse, null=True, on_delete=models.CASCADE, related_name="items"
    )
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    objects: models.Manager[StoredItem] = models.Manager()

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["owner", "item_id"], name="item_of_owner")]

    def __str__(self) -> str:
        return self.item_id
