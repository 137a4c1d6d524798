"""The admin site: unfold's, with a throttled login."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from unfold.sites import UnfoldAdminSite

from gateway_site.login import LoginForm


class GatewayAdminSite(UnfoldAdminSite):
    login_form = LoginForm

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        response: HttpResponse = super().login(request, extra_context)
        form = _form_of(response)
        if form is not None and form.refused_for_s:
            response.status_code = 429
            response["retry-after"] = str(form.refused_for_s)
        return response


def _form_of(response: HttpResponse) -> LoginForm | None:
    context = response.context_data if isinstance(response, TemplateResponse) else None
    form = (context or {}).get("form")
    return form if isinstance(form, LoginForm) else None
