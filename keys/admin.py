"""The admin page of virtual keys."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Model, QuerySet
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from unfold.decorators import action, display

from keys.admin_forms import VirtualKeyForm
from keys.models import VirtualKey, make_secret
from providers.admin_history import HistoryAdmin


@admin.register(VirtualKey)
class VirtualKeyAdmin(HistoryAdmin):
    """A secret is shown in the answer to the POST that made it, and nowhere else: a message would
    put it into a cookie or a session row. Admin keys are superusers' business, or a key could be
    made that may do more than its maker (CVE-2026-47101)."""

    form = VirtualKeyForm
    list_display = ("name", "status", "hint", "admin", "models", "tools", "limits", "expires_at")
    list_filter = ("enabled", "admin")
    search_fields = ("name",)
    readonly_fields = ("hint", "status", "created_at")
    actions = ("revoke",)
    actions_detail = ("rotate_secret",)
    fieldsets = (
        (None, {"fields": ("name", "status", "hint", "created_at", "enabled", "admin")}),
        ("Access", {"fields": ("allowed_models", "allowed_tools", "expires_at")}),
        (
            "Limits",
            {
                "description": "Counted in each worker. The budget is kept, but not enforced yet.",
                "fields": (
                    ("rpm", "tpm"),
                    "max_parallel",
                    ("budget_usd", "budget_period"),
                ),
            },
        ),
    )
    add_fieldsets = (
        (None, {"fields": ("name", "admin")}),
        *fieldsets[1:],
    )

    @display(
        description="Status", label={"valid": "success", "expired": "warning", "revoked": "danger"}
    )
    def status(self, key: VirtualKey) -> str:
        if not key.enabled:
            return "revoked"
        return "valid" if key.is_valid_at(timezone.now()) else "expired"

    @display(description="Models")
    def models(self, key: VirtualKey) -> str:
        return "all" if key.allowed_models is None else ", ".join(key.allowed_models)

    @display(description="Tools")
    def tools(self, key: VirtualKey) -> str:
        return "all" if key.allowed_tools is None else ", ".join(key.allowed_tools)

    @display(description="Limits")
    def limits(self, key: VirtualKey) -> str:
        budget = key.budget_usd
        told = (
            (key.rpm, f"{key.rpm} requests/min"),
            (key.tpm, f"{key.tpm} tokens/min"),
            (key.max_parallel, f"{key.max_parallel} at once"),
            (budget, f"{(budget or Decimal()).normalize():f} USD/{key.budget_period}"),
        )
        return ", ".join(text for limit, text in told if limit is not None) or "none"

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        fields = super().get_readonly_fields(request, obj)
        return fields if _is_superuser(request) else (*fields, "admin")

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return _may_touch(request, obj) and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return _may_touch(request, obj) and super().has_delete_permission(request, obj)

    def add_view(
        self,
        request: HttpRequest,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        # Whichever button was pressed, the answer is the page with the secret.
        one_way_on = {"show_save_and_continue": False, "show_save_and_add_another": False}
        response: HttpResponse = super().add_view(
            request, form_url, {**one_way_on, **(extra_context or {})}
        )
        return response

    def save_model(
        self, request: HttpRequest, obj: VirtualKey, form: ModelForm[VirtualKey], change: bool
    ) -> None:
        if not change:
            request.made_secret = make_secret()  # type: ignore[attr-defined]
            obj.set_secret(request.made_secret)  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def response_add(
        self, request: HttpRequest, obj: VirtualKey, post_url_continue: str | None = None
    ) -> HttpResponse:
        secret: str = request.made_secret  # type: ignore[attr-defined]
        return self._show_secret(request, obj, secret=secret)

    def _show_secret(self, request: HttpRequest, key: VirtualKey, *, secret: str) -> HttpResponse:
        # Rendered by the handler, after the transaction around this view was committed.
        return TemplateResponse(
            request,
            "admin/keys/virtualkey/secret.html",
            {**self._page(request, key, title="The new secret"), "secret": secret},
        )

    def _page(self, request: HttpRequest, key: VirtualKey, *, title: str) -> dict[str, Any]:
        context = self.admin_site.each_context(request)
        return {**context, "title": title, "opts": self.opts, "original": key}

    @action(description="Rotate secret", icon="autorenew", url_path="rotate-secret")
    def rotate_secret(self, request: HttpRequest, object_id: str) -> HttpResponse:
        key = self.get_object(request, object_id)
        if key is None:
            raise Http404
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        if request.method != "POST":
            page = self._page(request, key, title="Rotate secret")
            return TemplateResponse(request, "admin/keys/virtualkey/rotate.html", page)
        secret = rotate(key, request.POST.get("hint", ""))
        if secret is None:
            self.message_user(request, "The secret was rotated meanwhile.", messages.ERROR)
            return redirect(reverse("admin:keys_virtualkey_change", args=[key.pk]))
        self.log_change(request, key, "Rotated the secret.")
        return self._show_secret(request, key, secret=secret)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        key = self.get_object(request, str(object_id))
        if key is None or not self.has_change_permission(request, key):
            return []
        actions: list[Any] = super().get_actions_detail(request, object_id)
        return actions

    @admin.action(description="Revoke selected keys", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[VirtualKey]) -> None:
        keys = [key for key in queryset if self.has_change_permission(request, key)]
        for key in keys:
            key.enabled = False
            key.save(update_fields=["enabled"])
            self.log_change(request, key, "Revoked.")
        self.message_user(request, f"{len(keys)} of {queryset.count()} keys revoked.")


def rotate(key: VirtualKey, seen_hint: str) -> str | None:
    """Gives a key a new secret; the old one stops working. None when it is no longer the secret
    whose hint the caller saw: of two rotations at once, one's answer would show a dead secret."""
    with transaction.atomic():
        current = VirtualKey.objects.select_for_update().get(pk=key.pk)
        if current.hint != seen_hint:
            return None
        secret = make_secret()
        current.set_secret(secret)
        current._change_reason = "The secret was rotated."  # type: ignore[attr-defined]
        current.save(update_fields=["secret_sha256", "hint"])
    return secret


def _is_superuser(request: HttpRequest) -> bool:
    return request.user.is_active and request.user.is_superuser


def _may_touch(request: HttpRequest, obj: Model | None) -> bool:
    return _is_superuser(request) or not (isinstance(obj, VirtualKey) and obj.admin)
