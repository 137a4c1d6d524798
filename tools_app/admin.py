"""The admin pages of tools and MCP servers."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.contrib import admin
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.utils.text import Truncator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import action, display
from unfold.forms import BaseDialogForm

from providers.admin_history import HistoryAdmin
from tools_app.admin_forms import RemoteForm, ToolForm
from tools_app.listings import ToolListing, list_server
from tools_app.models import McpServer, Remote, Tool
from tools_app.snapshot import ServerFacts, server_facts

SHOWN_OF_DESCRIPTION = 120
"""Characters in the list; models like to be told much."""


class RemoteAdmin(HistoryAdmin):
    form_only_fields: tuple[str, ...] = ("new_headers", "remove_headers")
    list_filter: tuple[str, ...] = ("enabled",)
    search_fields = ("name",)

    @display(description="Headers")
    def stored_headers(self, row: Remote) -> str:
        return "stored" if row.headers else "none"

    @method_decorator(sensitive_post_parameters("new_headers", "new_secret"))
    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        return response


@admin.register(Tool)
class ToolAdmin(RemoteAdmin):
    form = ToolForm
    form_only_fields = (*RemoteAdmin.form_only_fields, "new_secret")
    list_display = ("name", "run_by", "enabled", "beginning")
    list_filter = ("kind", "enabled")
    readonly_fields = ("stored_headers", "stored_secret")
    fieldsets = (
        (None, {"fields": ("name", "kind", "enabled")}),
        ("Definition", {"fields": ("description", "parameters")}),
        ("Where it is run", {"fields": ("url", "timeout_s")}),
        (
            "Secrets",
            {
                "fields": (
                    "stored_headers",
                    "new_headers",
                    "remove_headers",
                    "stored_secret",
                    "new_secret",
                )
            },
        ),
    )

    @display(description="Kind", ordering="kind")
    def run_by(self, tool: Tool) -> str:
        return tool.kind

    @display(description="Description")
    def beginning(self, tool: Tool) -> str:
        return Truncator(tool.description).chars(SHOWN_OF_DESCRIPTION) or "-"

    @display(description="Signing secret")
    def stored_secret(self, tool: Tool) -> str:
        return "stored" if tool.signing_secret else "none"


@admin.register(McpServer)
class McpServerAdmin(RemoteAdmin):
    form = RemoteForm
    list_display = ("name", "url", "enabled")
    readonly_fields = ("stored_headers",)
    actions_detail = ("list_tools",)
    fieldsets = (
        (None, {"fields": ("name", "enabled")}),
        ("Address", {"fields": ("url", "timeout_s")}),
        ("Headers", {"fields": ("stored_headers", "new_headers", "remove_headers")}),
    )

    @action(
        description="List its tools",
        icon="build",
        permissions=["change"],
        dialog={
            "title": "List its tools",
            "description": "Asks the saved address with the saved headers.",
            "form_class": BaseDialogForm,
            "form_submit_text": "List",
        },
    )
    def list_tools(
        self, request: HttpRequest, form: BaseDialogForm, object_id: str
    ) -> HttpResponse:
        server = self.get_object(request, object_id)
        if server is None:
            raise Http404
        listing = list_now(server_facts(server))
        return render(request, "admin/tools_app/tools.html", {"listing": listing})


def list_now(server: ServerFacts) -> ToolListing:
    """What a server offers, asked again."""
    if not connection.in_atomic_block:
        connection.close()  # seconds may pass on the network, and others may need it meanwhile
    return async_to_sync(list_server)(server, refresh=True)
