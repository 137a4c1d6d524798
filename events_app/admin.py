"""The admin page of events: read-only for everyone."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.paginator import InfinitePaginator
from unfold.views import ChangeList

from events_app.models import Event

MAX_ROWS = 10_000
"""Rows that can be paged through: each page costs as much as all pages before it."""


class EventPaginator(InfinitePaginator):
    """Never counts: on ten million rows that takes seconds."""

    @cached_property
    def count(self) -> int:
        return MAX_ROWS


class EventList(ChangeList):
    """A list that does not tell how long it is: nobody counted."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count  # says "no filter"


@admin.register(Event)
class EventAdmin(ModelAdmin):
    """Shows rows; nobody adds, changes or deletes them, superusers included."""

    ordering = ("-id",)
    list_display = ("id", "time", "kind", "key", "model", "provider", "request_id")
    list_filter = ("type",)
    search_fields = ("request_id",)
    search_help_text = "A whole request id"
    fields = ("id", "time", "kind", "request_id", "key", "session_id", "provider", "model", "told")
    paginator = EventPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    actions = None
    sortable_by = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return EventList

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Event], search_term: str
    ) -> tuple[QuerySet[Event], bool]:
        # Equality, whatever the database: every kind of LIKE scans on one of the two. No column
        # can hold a NUL, and Postgres refuses to look for one.
        asked = search_term.replace("\0", "")
        return queryset.filter(request_id=asked) if asked else queryset, False

    @display(description="Time (UTC)")
    def time(self, event: Event) -> str:
        return f"{event.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]

    @display(description="Type")
    def kind(self, event: Event) -> str:
        return event.type  # as the stream and its `types` say it, not as a title

    @display(description="Fields")
    def told(self, event: Event) -> SafeString:
        lines = ((name, json.dumps(value)) for name, value in event.fields.items())
        return format_html_join("", '<div class="break-words">{}: {}</div>', lines)
