"""The ledger's admin pages: read-only for everyone, and as quick on ten million rows as on ten."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Max, Min, Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.views import ChangeList

from usage.admin_filters import (
    PARAMETERS,
    DayRangeFilter,
    KeyFilter,
    LedgerPaginator,
    ModelFilter,
    ProviderFilter,
    StatusFilter,
    chosen,
    chosen_days,
    chosen_rollups,
)
from usage.fields import usd_text
from usage.models import FAILURES, HourlyUsage, UsageRecord
from usage.totals import Totals, add_up, cost_text

SHORT_ID = 16


class LedgerList(ChangeList):
    """A list in one order, the one with an index behind it, under the totals of what is chosen."""

    totals: list[tuple[str, str]] = []

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[str]:
        return list(self.model_admin.ordering)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.full_result_count = self.result_count  # of rows nobody counted; says "no filter"
        if self.query:
            return  # one request was looked for, on whatever day
        first, last = chosen_days(request.GET)
        told = _told(add_up(chosen_rollups(request.GET)))
        self.totals = [("Days (UTC)", f"{first} to {last}"), *told]


class RecordList(LedgerList):
    """Requests of the hours that have any: the rollups are written with the records they count."""

    def get_queryset(
        self, request: HttpRequest, exclude_parameters: Any = None
    ) -> QuerySet[UsageRecord]:
        records = super().get_queryset(request, exclude_parameters)
        if self.query:
            return records
        hours = chosen_rollups(request.GET)
        if chosen(request.GET, "status") in FAILURES:
            hours = hours.filter(failures__gt=0)
        bounds = hours.aggregate(first=Min("hour"), last=Max("hour"))
        if bounds["first"] is None:
            return records.none()
        return records.filter(
            created_at__gte=bounds["first"], created_at__lt=bounds["last"] + timedelta(hours=1)
        )


def _told(totals: Totals) -> list[tuple[str, str]]:
    return [
        ("Requests", f"{totals.requests:,}"),
        ("Failures", f"{totals.failures:,}"),
        ("Tokens in", f"{totals.tokens_input:,}"),
        ("of them cached", f"{totals.tokens_cached:,}"),
        ("Tokens out", f"{totals.tokens_output:,}"),
        ("Cost", totals.cost),
    ]


class LedgerAdmin(ModelAdmin):
    """Shows rows; nobody adds, changes or deletes them, superusers included."""

    paginator = LedgerPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 100
    list_filter_submit = True
    list_before_template = "admin/usage/totals.html"
    actions = None
    sortable_by = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RecordList if self.model is UsageRecord else LedgerList

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup in PARAMETERS

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def shorten(request_id: str) -> str:
    """Enough of an id to tell two apart in a list; the page behind the link has all of it."""
    return request_id if len(request_id) <= SHORT_ID else f"{request_id[:SHORT_ID]}…"


@admin.register(UsageRecord)
class UsageRecordAdmin(LedgerAdmin):
    ordering = ("-created_at", "-id")
    list_display = (
        "time",
        "short_id",
        "key",
        "model",
        "state",
        "tokens_input",
        "tokens_output",
        "cost",
        "duration_ms",
    )
    list_filter = (DayRangeFilter, StatusFilter, KeyFilter, ProviderFilter, ModelFilter)
    search_fields = ("request_id",)
    search_help_text = "A whole request id"
    fieldsets = (
        (None, {"fields": ("request_id", "created_at", "state", "error_code", "key")}),
        (
            "Model",
            {"fields": ("model", "route", "provider", "upstream_model", "finish_reason")},
        ),
        ("Request", {"fields": ("wire", "endpoint", "stream", "session_id", "attempts", "worker")}),
        (
            "Tokens",
            {
                "fields": (
                    ("tokens_input", "tokens_cached", "tokens_cache_write"),
                    ("tokens_output", "tokens_reasoning"),
                    "estimated",
                )
            },
        ),
        (
            "Cost",
            {
                "fields": (
                    ("cost", "price_source"),
                    ("price_input", "price_output"),
                    ("price_cached_input", "price_cache_write"),
                )
            },
        ),
        ("Time", {"fields": (("duration_ms", "time_to_first_token_ms"),)}),
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UsageRecord], search_term: str
    ) -> tuple[QuerySet[UsageRecord], bool]:
        # Equality, whatever the database: every kind of LIKE scans on one of the two.
        return queryset.filter(request_id=search_term) if search_term else queryset, False

    @display(
        description="Status",
        label={
            "success": "success",
            "error": "danger",
            "aborted": "warning",
            "interrupted": "warning",
        },
    )
    def state(self, record: UsageRecord) -> str:
        return record.status

    @display(description="Time (UTC)")
    def time(self, record: UsageRecord) -> str:
        return f"{record.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    @display(description="Request id")
    def short_id(self, record: UsageRecord) -> str:
        return shorten(record.request_id)

    @display(description="Cost")
    def cost(self, record: UsageRecord) -> str:
        return "unknown" if record.cost_usd is None else f"${usd_text(record.cost_usd)}"


@admin.register(HourlyUsage)
class HourlyUsageAdmin(LedgerAdmin):
    ordering = ("-hour", "-id")
    list_display = (
        "hour_utc",
        "key",
        "provider",
        "model",
        "requests",
        "failures",
        "tokens_input",
        "tokens_output",
        "cost",
    )
    list_filter = (DayRangeFilter, KeyFilter, ProviderFilter, ModelFilter)
    fieldsets = (
        (None, {"fields": ("hour", "key", "provider", "model")}),
        ("Requests", {"fields": (("requests", "failures", "unpriced_requests"), "cost")}),
        (
            "Tokens",
            {
                "fields": (
                    ("tokens_input", "tokens_cached", "tokens_cache_write"),
                    ("tokens_output", "tokens_reasoning"),
                )
            },
        ),
    )

    @display(description="Hour (UTC)")
    def hour_utc(self, row: HourlyUsage) -> str:
        return f"{row.hour.astimezone(UTC):%Y-%m-%d %H:00}"

    @display(description="Cost")
    def cost(self, row: HourlyUsage) -> str:
        return cost_text(
            row.cost_usd, requests=row.requests, unpriced_requests=row.unpriced_requests
        )
