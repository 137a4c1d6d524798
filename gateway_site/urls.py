"""Every path the gateway serves."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from gateway_api.openapi import OnlyRenderer  # and by it the scheme of our keys

admin.autodiscover()
handler400 = "gateway_site.failures.bad_request"
handler404 = "gateway_site.failures.not_found"
handler500 = "gateway_site.failures.failed"
urlpatterns = [
    path("", include("gateway_api.urls")),
    path(
        "openapi.json",
        SpectacularAPIView.as_view(
            renderer_classes=[OpenApiJsonRenderer2],
            content_negotiation_class=OnlyRenderer,
            authentication_classes=[],
            permission_classes=[],
        ),
        name="schema",
    ),
    path(
        "docs",
        SpectacularSwaggerSplitView.as_view(
            url_name="schema",
            http_method_names=["get", "head"],
            content_negotiation_class=OnlyRenderer,
            authentication_classes=[],
            permission_classes=[],
        ),
        name="docs",
    ),
    path("admin/", admin.site.urls),
]
