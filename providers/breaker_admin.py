"""The admin page of circuit breakers: how they are, and an end to waiting."""

from __future__ import annotations

from datetime import UTC

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.decorators import display

from providers.breaker import Breaker, Limits, State
from providers.breaker_rows import CircuitBreaker
from providers.breakers import announce

_COLOURS = {State.CLOSED: "success", State.HALF_OPEN: "warning", State.OPEN: "danger"}


@admin.register(CircuitBreaker)
class CircuitBreakerAdmin(ModelAdmin):
    """Of deployments that have failed. Their limits are the provider's and the deployment's."""

    list_display = ("__str__", "condition", "asked_again")
    list_display_links = None
    list_filter = ("state",)
    search_fields = ("provider", "model")
    ordering = ("-changed_at",)
    actions = ("close",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_close_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("providers.change_provider"))

    @display(description="State", label={state.value: each for state, each in _COLOURS.items()})
    def condition(self, breaker: CircuitBreaker) -> tuple[str, str]:
        return breaker.state, breaker.state.replace("_", " ")

    @display(description="Asked again from (UTC)")
    def asked_again(self, breaker: CircuitBreaker) -> str:
        if breaker.state != State.OPEN or breaker.until is None:
            return ""
        return f"{breaker.until.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    @admin.action(description="Close selected breakers", permissions=["close"])
    def close(self, request: HttpRequest, queryset: QuerySet[CircuitBreaker]) -> None:
        with transaction.atomic():
            rows = list(queryset.exclude(state=State.CLOSED).select_for_update())
            for row in rows:
                row.change(State.CLOSED, None)
                row.save()
        for row in rows:
            announce("circuit_closed", Breaker((row.provider, row.model), Limits()))
        self.message_user(
            request, f"{len(rows)} closed; workers know within a second.", messages.SUCCESS
        )
