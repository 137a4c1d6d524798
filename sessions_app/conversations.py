"""Conversations: made, found, forgotten. Ids are looked up among the caller's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson
from django.db import transaction

from sessions_app.models import ANSWERED, Conversation, StoredResponse
from sessions_app.responses import is_id

_UPSTREAMS = re.compile(r"conv_[0-9a-f]{40,}")


class UnknownConversation(LookupError):
    """There is no such conversation among the owner's."""


@dataclass(slots=True)
class Said:
    """A conversation so far. `began` is what it was made with, `turns` come the oldest first."""

    began: list[dict[str, Any]] = field(default_factory=list)
    turns: list[StoredResponse] = field(default_factory=list)
    kept_by: str | None = None
    """The provider that keeps it itself: empty where any may, None where it is kept here."""

    def items(self) -> list[dict[str, Any]]:
        return [*self.began, *(item for turn in self.turns for item in turn.read_items())]


def make(
    owner: str, conversation_id: str, metadata: dict[str, str], items: list[Any]
) -> Conversation:
    """A new conversation that begins with these items."""
    return Conversation.objects.create(
        owner=owner,
        conversation_id=conversation_id,
        metadata=orjson.dumps(metadata).decode(),
        items=orjson.dumps(items).decode(),
    )


def find(owner: str, conversation_id: str) -> Conversation:
    """One that was made here. Raises UnknownConversation."""
    row = None
    if is_id(conversation_id):
        mine = Conversation.objects.filter(owner=owner, conversation_id=conversation_id)
        row = mine.first()
    if row is None:
        raise UnknownConversation(conversation_id)
    return row


def set_metadata(owner: str, conversation_id: str, metadata: dict[str, str]) -> Conversation:
    """Raises UnknownConversation."""
    row = find(owner, conversation_id)
    row.metadata = orjson.dumps(metadata).decode()
    Conversation.objects.filter(pk=row.pk).update(metadata=row.metadata)
    return row


def forget(owner: str, conversation_id: str) -> None:
    """Deletes a conversation; its responses stay, each by itself. Raises UnknownConversation."""
    with transaction.atomic():
        find(owner, conversation_id).delete()
        turns = StoredResponse.objects.owned_by(owner).filter(conversation=conversation_id)
        turns.update(conversation="")


def said_in(owner: str, conversation_id: str) -> Said:
    """What was said in a conversation of this name, made here or not. Raises UnknownConversation
    for another key's at a provider that keeps it."""
    rows = StoredResponse.objects.filter(conversation=conversation_id, status__in=ANSWERED)
    turns = list(rows.filter(owner=owner).order_by("created_at", "id"))
    made = Conversation.objects.filter(owner=owner, conversation_id=conversation_id).first()
    if made is not None or not _UPSTREAMS.fullmatch(conversation_id):
        return Said(made.read_items() if made else [], turns)
    if not turns and _is_anothers(owner, conversation_id):
        raise UnknownConversation(conversation_id)
    providers = {turn.provider if turn.native else None for turn in turns}
    if not turns:
        return Said(kept_by="")
    return Said(turns=turns, kept_by=providers.pop() if len(providers) == 1 else None)


def _is_anothers(owner: str, conversation_id: str) -> bool:
    rows = StoredResponse.objects.filter(conversation=conversation_id).exclude(owner=owner)
    made = Conversation.objects.filter(conversation_id=conversation_id).exclude(owner=owner)
    return rows.exists() or made.exists()
