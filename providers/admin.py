"""The admin pages of providers, deployments and routes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib import admin, messages
from django.db import connection
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.admin import TabularInline
from unfold.decorators import action, display
from unfold.forms import BaseDialogForm

from providers.admin_forms import (
    ConnectionTestForm,
    DeploymentForm,
    ProviderForm,
    RouteTargetFormSet,
    label,
)
from providers.admin_history import HistoryAdmin
from providers.breaker_admin import CircuitBreakerAdmin as CircuitBreakerAdmin
from providers.capabilities import CAPABILITY_NAMES
from providers.connection import ConnectionFailure, ConnectionReport, test_connection
from providers.measuring import measure
from providers.models import Deployment, Price, Provider, Route, RouteTarget
from providers.probe import ALL_S, MAX_REQUESTS, Findings
from providers.secrets import SecretUnreadable
from providers.snapshot import provider_facts

MAX_MEASURED = 3
"""Deployments measured in one go: somebody waits for the page."""


BREAKER = (("breaker_failures", "breaker_rate"), ("breaker_window_s", "breaker_open_s"))
ABOUT_BREAKERS = (
    "A deployment whose requests fail so often is not asked for a while: routes go on with their "
    "next target, other requests are refused at once. Requests that are themselves wrong never "
    "count."
)


class DeploymentInline(TabularInline):
    model = Deployment
    fields = ("model", "enabled", "context_window")
    extra = 0
    per_page = 50
    show_change_link = True
    hide_title = True


@admin.register(Provider)
class ProviderAdmin(HistoryAdmin):
    form = ProviderForm
    form_only_fields = ("new_api_key", "remove_api_key")
    list_display = ("name", "kind", "enabled", "address", "key_source")
    list_filter = ("kind", "enabled")
    search_fields = ("name",)
    readonly_fields = ("key_source",)
    inlines = (DeploymentInline,)
    actions = ("test_connections",)
    actions_detail = ("test_connection",)
    fieldsets = (
        (None, {"fields": ("name", "kind", "enabled")}),
        ("Address", {"fields": ("base_url", "base_url_env")}),
        (
            "Credential",
            {"fields": ("key_source", "new_api_key", "remove_api_key", "api_key_env")},
        ),
        (
            "Patience",
            {
                "fields": (
                    ("timeout_connect_s", "timeout_first_byte_s"),
                    ("timeout_idle_s", "timeout_total_s"),
                    "max_retries",
                )
            },
        ),
        ("Circuit breaker", {"fields": BREAKER, "description": ABOUT_BREAKERS}),
        ("Options", {"fields": ("options",), "classes": ("collapse",)}),
    )

    # A variable's value is not shown: it may be the wrong one, and hold a secret.
    @display(description="Address")
    def address(self, provider: Provider) -> str:
        if provider.base_url or not provider.base_url_env:
            return provider.base_url or "the kind's own"
        return f"from ${provider.base_url_env}"

    @display(description="API key")
    def key_source(self, provider: Provider) -> str:
        if provider.api_key:
            return "a key is stored"
        return f"from ${provider.api_key_env}" if provider.api_key_env else "none"

    @method_decorator(sensitive_post_parameters("new_api_key"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        return response

    def save_model(
        self, request: HttpRequest, obj: Provider, form: ModelForm[Provider], change: bool
    ) -> None:
        if form.cleaned_data.get("new_api_key"):
            obj._change_reason = "The API key was set."  # type: ignore[attr-defined]
        elif form.cleaned_data.get("remove_api_key"):
            obj._change_reason = "The API key was removed."  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    @action(
        description="Test connection",
        icon="network_check",
        permissions=["change"],
        dialog={
            "title": "Test connection",
            "description": "Asks the saved address with the saved credential.",
            "form_class": ConnectionTestForm,
            "form_submit_text": "Test",
        },
    )
    def test_connection(
        self, request: HttpRequest, form: ConnectionTestForm, object_id: str
    ) -> HttpResponse:
        provider = self.get_object(request, object_id)
        if provider is None:
            raise Http404
        [report] = test_providers([provider], model=form.cleaned_data["model"] or None)
        return render(
            request, "admin/providers/connection_report.html", {"report": report, "form": form}
        )

    @admin.action(description="Test connection of selected providers", permissions=["change"])
    def test_connections(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        for report in test_providers(list(queryset)):
            level = messages.ERROR if report.error else messages.SUCCESS
            self.message_user(request, describe(report), level)


def test_providers(
    providers: list[Provider], *, model: str | None = None
) -> list[ConnectionReport]:
    """A report for each provider, all asked at once: each stored credential with the stored address
    it belongs to."""
    if not connection.in_atomic_block:
        connection.close()  # seconds may pass on the network, and others may need it meanwhile
    return async_to_sync(_test_all)(providers, model)


async def _test_all(providers: list[Provider], model: str | None) -> list[ConnectionReport]:
    return await asyncio.gather(*(_test(provider, model) for provider in providers))


async def _test(provider: Provider, model: str | None) -> ConnectionReport:
    try:
        base_url, api_key = provider.effective_base_url(), provider.reveal_api_key()
    except SecretUnreadable:
        problem = "The stored API key was encrypted under another secret key: enter it again."
    except (OSError, UnicodeDecodeError):
        problem = "The file that the environment variable names cannot be read."
    else:
        return await test_connection(
            provider.kind,
            base_url,
            api_key=api_key,
            model=model,
            provider=provider.name,
            options=provider.options,
        )
    return ConnectionReport(provider.name, model, error=ConnectionFailure("auth", problem))


def describe(report: ConnectionReport) -> str:
    """A report in a sentence or two."""
    if report.error:
        return f"{report.provider}: {report.error.kind} error. {report.error.message}"
    models = ", ".join(report.models) or "none"
    more = report.model_count - len(report.models)
    return (
        f"{report.provider}: answered in {report.latency_ms} ms. {report.model_count} models: "
        f"{models}{f' and {more} more' if more else ''}."
    )


class PriceInline(TabularInline):
    """Dated rows. They are added and never edited, so that what was once in force stays on record
    (M22)."""

    model = Price
    fields = ("valid_from", "input", "output", "cached_input", "cache_write")
    extra = 0
    hide_title = True
    verbose_name_plural = "Prices, USD per million tokens"

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "valid_from":
            kwargs["initial"] = timezone.now
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


@admin.register(Deployment)
class DeploymentAdmin(HistoryAdmin):
    form = DeploymentForm
    list_display = ("__str__", "enabled", "context_window", "price", "overrides", "measured_at")
    list_filter = ("provider", "enabled")
    list_select_related = ("provider",)
    search_fields = ("model", "provider__name")
    inlines = (PriceInline,)
    readonly_fields = ("measured",)
    actions = ("measure_selected",)
    actions_detail = ("measure",)
    fieldsets = (
        (None, {"fields": ("provider", "model", "enabled", "context_window")}),
        ("Capabilities", {"fields": ("capabilities", "measured")}),
        ("Circuit breaker", {"fields": BREAKER, "classes": ("collapse",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Deployment]:
        return super().get_queryset(request).prefetch_related("prices")

    @display(description="Price, USD per million tokens")
    def price(self, deployment: Deployment) -> str:
        now = timezone.now()
        for price in deployment.prices.all():  # newest first
            if price.valid_from <= now:
                return f"{price.input.normalize():f} in, {price.output.normalize():f} out"
        return "the catalogue's"

    @display(description="Overrides")
    def overrides(self, deployment: Deployment) -> str:
        flags = deployment.capabilities.items()
        return ", ".join(f"{label(name)}: {'yes' if on else 'no'}" for name, on in flags)

    @display(description="Measured")
    def measured(self, deployment: Deployment) -> str:
        if deployment.measured_at is None:
            return "never"
        facts = provider_facts(deployment.provider)
        if not deployment.measured_flags(facts.base_url):
            return "at another address than the provider's present one: not in force"
        return render_to_string(
            "providers/findings.html",
            {"findings": as_rows(deployment.measured_capabilities, deployment.measured_evidence)},
        )

    @action(
        description="Measure capabilities",
        icon="experiment",
        permissions=["change"],
        dialog={
            "title": "Measure capabilities",
            "description": (
                "Asks the model what it can do, one small request each: some ten requests of a few "
                f"hundred tokens, {MAX_REQUESTS} at most. They go to the ledger under your name. "
                f"This takes up to {ALL_S / 60:g} minutes. Your own choices stay in force."
            ),
            "form_submit_text": "Measure",
        },
    )
    def measure(self, request: HttpRequest, form: BaseDialogForm, object_id: str) -> HttpResponse:
        deployment = self.get_object(request, object_id)
        if deployment is None:
            raise Http404
        findings = measure(deployment, key=ledger_name(request))
        rows = as_rows(findings.flags, findings.evidence)
        return render(
            request,
            "admin/providers/measurement.html",
            {"deployment": deployment, "stopped": findings.stopped, "findings": rows},
        )

    @admin.action(
        description=f"Measure capabilities of selected deployments ({MAX_MEASURED} at most)",
        permissions=["change"],
    )
    def measure_selected(self, request: HttpRequest, queryset: QuerySet[Deployment]) -> None:
        chosen = list(queryset.select_related("provider")[: MAX_MEASURED + 1])
        if len(chosen) > MAX_MEASURED:
            self.message_user(request, f"Select {MAX_MEASURED} at most.", messages.ERROR)
            return
        for deployment in chosen:
            findings = measure(deployment, key=ledger_name(request))
            level = messages.ERROR if findings.stopped else messages.SUCCESS
            self.message_user(request, describe_findings(deployment, findings), level)


def ledger_name(request: HttpRequest) -> str:
    """Whose a request from these pages is in the ledger, as from the API's browser callers."""
    return f"staff:{request.user.get_username()}"[:100]


def as_rows(flags: Mapping[str, bool], evidence: Mapping[str, str]) -> list[tuple[str, bool, str]]:
    """Label, flag and evidence of each capability, in their usual order."""
    return [
        (label(name), flags[name], evidence.get(name, ""))
        for name in CAPABILITY_NAMES
        if name in flags
    ]


def describe_findings(deployment: Deployment, findings: Findings) -> str:
    """Findings in a sentence or two."""
    able = [label(name) for name, flag in findings.flags.items() if flag]
    unable = [label(name) for name, flag in findings.flags.items() if not flag]
    told = [
        f"can: {', '.join(able)}" if able else "",
        f"cannot: {', '.join(unable)}" if unable else "",
        f"not everything was asked. {findings.stopped}" if findings.stopped else "",
    ]
    return f"{deployment} {'; '.join(filter(None, told))}"


class RouteTargetInline(TabularInline):
    model = RouteTarget
    formset = RouteTargetFormSet
    fields = ("deployment", "position")
    autocomplete_fields = ("deployment",)
    ordering_field = "position"
    hide_ordering_field = True
    hide_title = True
    extra = 0


@admin.register(Route)
class RouteAdmin(HistoryAdmin):
    list_display = ("name", "strategy", "enabled", "in_order")
    list_filter = ("enabled",)
    search_fields = ("name",)
    inlines = (RouteTargetInline,)
    fieldsets = ((None, {"fields": ("name", "strategy", "enabled")}),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Route]:
        return super().get_queryset(request).prefetch_related("targets__deployment__provider")

    @display(description="Targets")
    def in_order(self, route: Route) -> str:
        return " → ".join(str(target.deployment) for target in route.targets.all())
