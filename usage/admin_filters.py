"""Filters of the ledger's lists. None looks for its choices in the ledger itself: the hourly
rollups know every key, provider and model, in a thousandth of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin.views.main import SEARCH_VAR, ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, QueryDict
from django.utils import timezone
from django.utils.functional import cached_property
from unfold.contrib.filters.admin import DropdownFilter
from unfold.contrib.filters.forms import RangeDateForm
from unfold.paginator import InfinitePaginator

from usage.models import HourlyUsage, Status, UsageRecord
from usage.totals import end_of, start_of

DAYS_BY_DEFAULT = 7
ROLLED_UP = ("key", "provider", "model")
MAX_CHOICES = 200
MAX_ROWS = 10_000
"""Rows that can be paged through: each page costs as much as all pages before it."""


class LedgerPaginator(InfinitePaginator):
    """Never counts: on ten million rows that takes seconds."""

    @cached_property
    def count(self) -> int:
        return MAX_ROWS


def chosen_days(params: QueryDict) -> tuple[date, date]:
    """The first and last day asked for, both included. A list without a beginning would make a
    rare filter scan the whole ledger, so there always is one."""
    last = _day(params.get("day_to")) or timezone.now().date()
    first = _day(params.get("day_from")) or last - timedelta(days=DAYS_BY_DEFAULT - 1)
    return first, last


def _day(text: str | None) -> date | None:
    try:
        day = date.fromisoformat(text or "")
    except ValueError:
        return None
    # Far enough from the first and last day a date can hold to count on from it.
    return day if date(2000, 1, 1) <= day <= date(2999, 12, 31) else None


def chosen(params: QueryDict, name: str) -> str:
    """The value asked for, empty for none. No column can hold a NUL, and Postgres refuses to look
    for one."""
    value = params.get(name) or ""
    return "" if "\0" in value else value


def chosen_rollups(params: QueryDict) -> QuerySet[HourlyUsage]:
    """The hourly totals of what is asked for, whatever its status."""
    first, last = chosen_days(params)
    columns = {name: value for name in ROLLED_UP if (value := chosen(params, name))}
    return HourlyUsage.objects.filter(hour__gte=start_of(first), hour__lt=end_of(last), **columns)


class DayRangeFilter(admin.ListFilter):
    """Days in UTC. A search by request id looks at every day."""

    title = "day"
    parameter_name = "day"
    template = "unfold/filters/filters_date_range.html"
    form_class = RangeDateForm

    def __init__(
        self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any
    ) -> None:
        super().__init__(request, params, model, model_admin)
        self.request = request
        self.moment = "created_at" if model is UsageRecord else "hour"
        for name in self.expected_parameters():
            if name in params:
                self.used_parameters[name] = params.pop(name)[-1]

    def has_output(self) -> bool:
        return True

    def expected_parameters(self) -> list[str | None]:
        return ["day_from", "day_to"]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if request.GET.get(SEARCH_VAR):
            return queryset
        first, last = chosen_days(request.GET)
        return queryset.filter(
            **{f"{self.moment}__gte": start_of(first), f"{self.moment}__lt": end_of(last)}
        )

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        yield {
            "request": self.request,
            "parameter_name": self.parameter_name,
            "form": self.form_class(name=self.parameter_name, data=self.used_parameters),
        }


class ExactFilter(DropdownFilter):
    """Equal to one of the choices; the column has the parameter's name."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = chosen(request.GET, self.parameter_name)
        return queryset.filter(**{self.parameter_name: value}) if value else queryset


class StatusFilter(ExactFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(Status.choices)


class RolledUpFilter(ExactFilter):
    """Its choices are those of the last days, and the one in force."""

    parameter_name: ClassVar[str]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        name = self.parameter_name
        since = timezone.now() - timedelta(days=DAYS_BY_DEFAULT)
        rows = HourlyUsage.objects.filter(hour__gte=since).order_by(name)
        found = set(rows.values_list(name, flat=True).distinct()[:MAX_CHOICES])
        found |= {chosen(request.GET, name)}
        return [(value, value) for value in sorted(found) if value]


class KeyFilter(RolledUpFilter):
    title = "key"
    parameter_name = "key"


class ProviderFilter(RolledUpFilter):
    title = "provider"
    parameter_name = "provider"


class ModelFilter(RolledUpFilter):
    title = "model"
    parameter_name = "model"


PARAMETERS = frozenset({"day_from", "day_to", "status", *ROLLED_UP})
"""All a caller may filter by. Django's admin would take any lookup on any column, and a `regex` on
ten million rows stops a small machine."""
