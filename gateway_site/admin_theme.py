"""How the admin looks: unfold's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _page(title: str, model: str, *, icon: str) -> dict[str, Any]:
    """A link of the sidebar, for those who may view the model (`app_model`)."""
    app, _, name = model.rpartition("_")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{model}_changelist"),
        "permission": _may(f"{app}.view_{name}"),
    }


def _may(permission: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(permission)


def _file(name: str) -> Callable[[HttpRequest], str]:
    # Asked for at each request: where static files lie is not known while settings are read.
    return lambda _: static(f"gateway_site/{name}")


UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "AbstractCore Server",
    "SITE_HEADER": "AbstractCore Server",
    "SITE_SYMBOL": "hub",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _file("icon.svg")}],
    "STYLES": [_file("admin.css")],
    "SHOW_VIEW_ON_SITE": False,
    "SIDEBAR": {
        "navigation": [
            {
                "title": "Providers",
                "items": [
                    _page("Providers", "providers_provider", icon="dns"),
                    _page("Deployments", "providers_deployment", icon="deployed_code"),
                    _page("Routes", "providers_route", icon="alt_route"),
                    _page("Circuit breakers", "providers_circuitbreaker", icon="power_off"),
                ],
            },
            {
                "title": "Tools",
                "items": [
                    _page("Tools", "tools_app_tool", icon="build"),
                    _page("MCP servers", "tools_app_mcpserver", icon="extension"),
                ],
            },
            {
                "title": "Access",
                "items": [
                    _page("Keys", "keys_virtualkey", icon="key"),
                    _page("Users", "auth_user", icon="person"),
                    _page("Groups", "auth_group", icon="group"),
                ],
            },
            {
                "title": "Usage",
                "items": [
                    _page("Requests", "usage_usagerecord", icon="receipt_long"),
                    _page("Hourly totals", "usage_hourlyusage", icon="bar_chart"),
                    _page("Events", "events_app_event", icon="bolt"),
                    _page("Sessions", "sessions_app_session", icon="chat"),
                    _page("Conversations", "sessions_app_conversation", icon="question_answer"),
                    _page("Stored responses", "sessions_app_storedresponse", icon="forum"),
                ],
            },
        ],
    },
}
