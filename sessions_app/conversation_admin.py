"""The admin page of conversations: read-only, with the items that are in them."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from django.contrib import admin
from django.db.models import Count, Model, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from sessions_app.models import Conversation, ConversationItem
from sessions_app.shown_turns import shorten, show_turns, text_of_content

MAX_SHOWN = 200
"""Items on a conversation's page, the newest ones: the API has all of them."""
SHORT_ID = 16


@admin.register(Conversation)
class ConversationAdmin(ModelAdmin):
    """Shows rows; nobody adds, changes or deletes them here, superusers included."""

    ordering = ("-id",)
    list_display = ("time", "short_id", "owner", "item_count")
    search_fields = ("=conversation_id",)
    search_help_text = "A whole conversation id"
    list_per_page = 100
    sortable_by = ()
    fields = ("conversation_id", ("owner", "time"), "labels", "transcript")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        items = ConversationItem.objects.filter(conversation=OuterRef("pk")).order_by()
        count = items.values("conversation").annotate(count=Count("pk")).values("count")
        return super().get_queryset(request).annotate(items=Coalesce(Subquery(count), 0))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @display(description="Time (UTC)")
    def time(self, row: Conversation) -> str:
        return f"{row.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    @display(description="Conversation id")
    def short_id(self, row: Conversation) -> str:
        # Whole, it runs out of a narrow screen; the row's own page has all of it.
        return f"{row.conversation_id[:SHORT_ID]}…"

    @display(description="Items")
    def item_count(self, row: Conversation) -> int:
        count: int = row.items  # type: ignore[attr-defined]  # annotated
        return count

    @display(description="Metadata")
    def labels(self, row: Conversation) -> str:
        return ", ".join(f"{name}: {value}" for name, value in row.read_metadata().items())

    @display(description=f"Items (the last {MAX_SHOWN})")
    def transcript(self, row: Conversation) -> SafeString:
        newest = ConversationItem.objects.filter(conversation=row).order_by("-id")[:MAX_SHOWN]
        return show_turns(map(_shown, reversed(newest)))


def _shown(row: ConversationItem) -> tuple[str, str, str]:
    item = row.read()
    kind = str(item.get("role") or item.get("type") or "item")
    return kind, row.provider or "kept here", _text(item)


def _text(item: dict[str, Any]) -> str:
    """A message's text; of everything else (calls, their results) what it says in JSON."""
    if "content" in item and "role" in item:
        return shorten(text_of_content(item["content"]))
    told = {name: value for name, value in item.items() if name not in ("id", "type")}
    return shorten(json.dumps(told, ensure_ascii=False))
