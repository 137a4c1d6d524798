"""The base of every admin page whose rows keep their history."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.utils import flatten_fieldsets
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from simple_history.admin import SimpleHistoryAdmin
from unfold.admin import ModelAdmin


class HistoryAdmin(SimpleHistoryAdmin, ModelAdmin):
    """Shows who changed what and when. The past is shown, never replayed.

    `form_only_fields` names fields of the form that are no fields of the model: they are left out
    wherever nothing can be changed.
    """

    form_only_fields: tuple[str, ...] = ()

    def may_edit(self, request: HttpRequest, obj: Model | None) -> bool:
        """Whether this request shows a form, not a page to read."""
        if _shows_a_version(request):
            return False
        if obj is None:
            return self.has_add_permission(request)
        return self.has_change_permission(request, obj)

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if self.may_edit(request, obj):
            return fieldsets
        return [(title, self._readable(options)) for title, options in fieldsets]

    def _readable(self, options: dict[str, Any]) -> dict[str, Any]:
        fields = [name for name in options["fields"] if name not in self.form_only_fields]
        return {**options, "fields": fields}

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        if _shows_a_version(request):
            return flatten_fieldsets(self.get_fieldsets(request, obj))
        return super().get_readonly_fields(request, obj)

    def history_form_view(
        self,
        request: HttpRequest,
        object_id: str,
        version_id: str,
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        # django-simple-history 3.13.0 writes the old version back on a POST, for everyone who may
        # merely view it; and an old address must not come back under a new credential.
        if request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        return super().history_form_view(request, object_id, version_id, extra_context)

    def revert_disabled(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return True


def _shows_a_version(request: HttpRequest) -> bool:
    match = request.resolver_match
    return match is not None and (match.url_name or "").endswith("_simple_history")
