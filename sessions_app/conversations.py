"""Conversations: made, found, gone on with, forgotten. Ids are looked up among the caller's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from django.db import transaction
from django.utils import timezone

from sessions_app.history import Earlier, turn_of
from sessions_app.ids import Unknown, is_id, new_id
from sessions_app.models import ANSWERED, Conversation, ConversationItem, StoredResponse

_UPSTREAMS = re.compile(r"conv_[0-9a-f]{40,}")
Item = dict[str, Any]


class UnknownConversation(Unknown):
    noun = "conversation"


class UnknownItem(Unknown):
    noun = "item"


class DuplicateItem(ValueError):
    """The conversation has an item of this id already."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True)
class Said:
    """A conversation so far, the oldest first."""

    earlier: list[Earlier] = field(default_factory=list)
    kept_by: str | None = None
    """The provider that keeps it itself: empty where any may, None where it is kept here."""


def make(owner: str, metadata: dict[str, str], items: list[Item]) -> Conversation:
    """A new conversation that begins with these items, each with an id of its own."""
    with transaction.atomic():
        row = Conversation.objects.create(
            owner=owner,
            conversation_id=new_id("conv"),
            metadata=orjson.dumps(metadata).decode(),
        )
        _append(row, items)
    return row


def find(owner: str, conversation_id: str) -> Conversation:
    """One that was made here. Raises UnknownConversation."""
    return _find(owner, conversation_id, lock=False)


def _find(owner: str, conversation_id: str, *, lock: bool) -> Conversation:
    row = None
    if is_id(conversation_id):
        rows = Conversation.objects.select_for_update() if lock else Conversation.objects
        row = rows.filter(owner=owner, conversation_id=conversation_id).first()
    if row is None:
        raise UnknownConversation(conversation_id)
    return row


def set_metadata(owner: str, conversation_id: str, metadata: dict[str, str]) -> Conversation:
    """Raises UnknownConversation."""
    row = find(owner, conversation_id)
    row.metadata, row.updated_at = orjson.dumps(metadata).decode(), timezone.now()
    row.save(update_fields=["metadata", "updated_at"])
    return row


def forget(owner: str, conversation_id: str) -> None:
    """Deletes a conversation; its responses stay, each by itself. Raises UnknownConversation."""
    with transaction.atomic():
        find(owner, conversation_id).delete()
        turns = StoredResponse.objects.owned_by(owner).filter(conversation=conversation_id)
        turns.update(conversation="")


# --- items --------------------------------------------------------------------------------------


def add_items(owner: str, conversation_id: str, items: list[Item]) -> None:
    """Adds items, each with an id of its own, behind what was said. Raises UnknownConversation and
    DuplicateItem."""
    with transaction.atomic():
        row = _find(owner, conversation_id, lock=True)
        if taken := _taken(row, items):
            raise DuplicateItem(min(taken))
        _append(row, items)


def item_ids(owner: str, conversation_id: str) -> list[str]:
    """The ids of what was said, the oldest first. Raises UnknownConversation."""
    items = find(owner, conversation_id).said.order_by("id")
    return list(items.values_list("item_id", flat=True))


def read_items(owner: str, conversation_id: str, ids: Collection[str]) -> dict[str, Item]:
    """Items by id, as far as they are there. Raises UnknownConversation."""
    rows = find(owner, conversation_id).said.filter(item_id__in=list(ids))
    return {row.item_id: row.read() for row in rows}


def find_item(owner: str, conversation_id: str, item_id: str) -> Item:
    """Raises UnknownConversation and UnknownItem."""
    found = read_items(owner, conversation_id, [item_id] if is_id(item_id) else [])
    if item_id not in found:
        raise UnknownItem(item_id)
    return found[item_id]


def forget_item(owner: str, conversation_id: str, item_id: str) -> Conversation:
    """Takes an item out of a conversation. Raises UnknownConversation and UnknownItem."""
    row = find(owner, conversation_id)
    if not is_id(item_id) or not row.said.filter(item_id=item_id).delete()[0]:
        raise UnknownItem(item_id)
    return row


def go_on(row: StoredResponse) -> None:
    """Adds a response's turn to its conversation. Turns that end at the same time stand one behind
    the other, each whole: whoever comes second waits for the first. Call it in a transaction."""
    try:
        conversation = _find(row.owner, row.conversation, lock=True)
    except UnknownConversation:  # deleted meanwhile, or its provider keeps it
        return
    own, answer = row.read_input(), row.read_output()
    taken = _taken(conversation, (*own, *answer))
    said = [_named(item, taken) for item in own if item.get("id") not in taken]
    said += [_named(item, taken) for item in answer]
    _append(conversation, said, provider=row.provider if row.native else "")


def _taken(row: Conversation, items: Iterable[Item]) -> set[str]:
    names = [item["id"] for item in items if is_id(item.get("id"))]
    return set(row.said.filter(item_id__in=names).values_list("item_id", flat=True))


def _named(item: Item, taken: set[str]) -> Item:
    """The item under an id of its own: some servers give the same ones again and again."""
    if not is_id(item.get("id")) or item["id"] in taken:
        item = {**item, "id": new_id("item")}
    taken.add(item["id"])
    return item


def _append(row: Conversation, items: list[Item], *, provider: str = "") -> None:
    ConversationItem.objects.bulk_create(
        ConversationItem(
            conversation=row,
            item_id=item["id"],
            provider=provider,
            body=orjson.dumps(item).decode(),
        )
        for item in items
    )
    Conversation.objects.filter(pk=row.pk).update(updated_at=timezone.now())


# --- as a history -------------------------------------------------------------------------------


def said_in(owner: str, conversation_id: str) -> Said:
    """What was said in a conversation. Raises UnknownConversation, except for a name that may be
    one a provider gave and that is not another key's."""
    made = Conversation.objects.filter(owner=owner, conversation_id=conversation_id).first()
    if made is not None:
        return Said([Earlier([row.read()], row.provider) for row in made.said.order_by("id")])
    if not _UPSTREAMS.fullmatch(conversation_id) or _is_anothers(owner, conversation_id):
        raise UnknownConversation(conversation_id)
    mine = StoredResponse.objects.owned_by(owner).filter(
        conversation=conversation_id, status__in=ANSWERED
    )
    turns = list(mine.order_by("created_at", "id"))
    providers = {turn.provider if turn.native else None for turn in turns} or {""}
    kept_by = providers.pop() if len(providers) == 1 else None
    return Said([turn_of(turn) for turn in turns], kept_by)


def _is_anothers(owner: str, conversation_id: str) -> bool:
    rows = StoredResponse.objects.filter(conversation=conversation_id)
    if rows.filter(owner=owner).exists():
        return False
    made = Conversation.objects.filter(conversation_id=conversation_id).exclude(owner=owner)
    return rows.exists() or made.exists()
