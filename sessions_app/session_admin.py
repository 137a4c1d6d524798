"""The admin page of sessions: read-only, with what was said in them."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from sessions_app.session_rows import Session, SessionMessage

MAX_SHOWN = 200
"""Messages on a session's page, the newest ones: the API has all of them."""
MAX_TEXT = 4000
SHORT_ID = 24
_BLOCK = (
    '<div class="mb-4"><div class="font-semibold">{} · {}</div>'
    '<div class="whitespace-pre-wrap break-words">{}</div></div>'
)


@admin.register(Session)
class SessionAdmin(ModelAdmin):
    """Shows rows; nobody adds, changes or deletes them here, superusers included."""

    ordering = ("-id",)
    list_display = ("time", "short_id", "owner", "model", "message_count", "total_tokens")
    search_fields = ("=session_id",)
    search_help_text = "A whole session id"
    show_full_result_count = False
    list_per_page = 100
    sortable_by = ()
    fields = (
        ("session_id", "owner"),
        ("provider", "model"),
        ("created_at", "last_turn_at"),
        ("message_count", "total_tokens"),
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

    @display(description=f"Transcript (the last {MAX_SHOWN} messages)")
    def transcript(self, row: Session) -> SafeString:
        # What people and models write is text here, whatever it says.
        newest = SessionMessage.objects.filter(session=row).order_by("-number")[:MAX_SHOWN]
        return format_html_join("", _BLOCK, map(_shown, reversed(newest)))


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
    content = message.get("content")
    texts = [content] if isinstance(content, str) else []
    texts += [_part(part) for part in content] if isinstance(content, list) else []
    texts += [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    text = "\n".join(texts)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _part(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    return f"[{part.get('type', 'part')}]" if isinstance(part, dict) else "[part]"
