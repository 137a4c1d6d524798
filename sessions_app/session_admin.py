"""The admin page of sessions: read-only, with what was said in them."""

from __future__ import annotations

import json
from datetime import UTC
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from sessions_app.session_rows import Session, SessionMessage
from sessions_app.shown_turns import shorten, show_turns, text_of_content

MAX_SHOWN = 200
"""Messages on a session's page, the newest ones: the API has all of them."""
SHORT_ID = 24


@admin.register(Session)
class SessionAdmin(ModelAdmin):
    """Shows rows; nobody adds, changes or deletes them here, superusers included."""

    ordering = ("-id",)
    list_display = ("time", "short_id", "owner", "model", "message_count", "total_tokens")
    search_fields = ("=session_id",)
    search_help_text = "A whole session id"
    list_per_page = 100
    sortable_by = ()
    fields = (
        ("session_id", "owner"),
        ("provider", "model"),
        ("created_at", "last_turn_at"),
        ("message_count", "total_tokens"),
        ("cost", "unpriced_requests"),
        "truncation",
        "transcript",
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @display(description="Time (UTC)")
    def time(self, row: Session) -> str:
        return f"{row.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    @display(description="Session id")
    def short_id(self, row: Session) -> str:
        # Whole, it runs out of a narrow screen; the row's own page has all of it.
        return row.session_id if len(row.session_id) <= SHORT_ID else f"{row.session_id[:20]}…"

    @display(description="Cost (USD)")
    def cost(self, row: Session) -> str:
        """Of priced requests."""
        return f"{Decimal(row.total_picodollars).scaleb(-12):f}"

    @display(description=f"Transcript (the last {MAX_SHOWN} messages)")
    def transcript(self, row: Session) -> SafeString:
        newest = SessionMessage.objects.filter(session=row).order_by("-number")[:MAX_SHOWN]
        return show_turns(map(_shown, reversed(newest)))


def _shown(row: SessionMessage) -> tuple[str, str, str]:
    marks = [
        mark
        for mark, holds in (
            ("incomplete", row.incomplete),
            ("summary", row.summary),
            ("summed up", row.compacted),
        )
        if holds
    ]
    who = ", ".join([row.role, *marks])
    return who, f"{row.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}", _text(row.read())


def _text(message: dict[str, Any]) -> str:
    texts = [text_of_content(message.get("content"))]
    texts += [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return shorten("\n".join(filter(None, texts)))
