"""The admin page of stored responses: read-only, without what was said in them.

Prompts and answers belong to the key that made them; here is only what an operator needs to see
that something is kept.
"""

from __future__ import annotations

from datetime import UTC

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from sessions_app.conversation_admin import ConversationAdmin as ConversationAdmin
from sessions_app.models import StoredResponse
from sessions_app.session_admin import SessionAdmin as SessionAdmin

SHORT_ID = 16


@admin.register(StoredResponse)
class StoredResponseAdmin(ModelAdmin):
    """Shows rows; nobody adds or changes them, superusers included."""

    ordering = ("-created_at", "-id")
    list_display = ("time", "short_id", "owner", "model", "provider", "state")
    list_filter = ("status", "background")
    search_fields = ("=response_id",)
    search_help_text = "A whole response id"
    list_per_page = 100
    sortable_by = ()
    fields = (
        ("response_id", "status"),
        ("owner", "created_at"),
        ("model", "provider"),
        ("native", "upstream_id"),
        ("previous_response_id", "conversation"),
        ("background", "heartbeat_at"),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @display(description="Time (UTC)")
    def time(self, row: StoredResponse) -> str:
        return f"{row.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    @display(description="Response id")
    def short_id(self, row: StoredResponse) -> str:
        # Whole, it runs out of a narrow screen; the row's own page has all of it.
        return f"{row.response_id[:SHORT_ID]}…"

    @display(
        description="Status",
        label={
            "completed": "success",
            "failed": "danger",
            "incomplete": "warning",
            "cancelled": "warning",
        },
    )
    def state(self, row: StoredResponse) -> str:
        return row.status
