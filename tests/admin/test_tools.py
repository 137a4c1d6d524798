"""The pages of tools and MCP servers: secrets go in and never come out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from keys.models import VirtualKey
from providers.outbound import parse_networks
from tests.admin.conftest import ClientWith
from tests.tools_app.stage import mcp_process
from tools_app import listings
from tools_app.models import McpServer, Tool

TOOL = "/admin/tools_app/tool/"
SERVER = "/admin/tools_app/mcpserver/"
CANARY = "canary-5f2b8c1d9e7a4036aa"


def posted(**fields: Any) -> dict[str, Any]:
    schema = json.dumps({"type": "object"})
    return {
        "name": "get_weather",
        "kind": "http",
        "enabled": "on",
        "parameters": schema,
        "url": "http://tools.example/weather",
        "timeout_s": "5",
        **fields,
    }


def errors_of(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = response.context["adminform"].form.errors
    return found


def test_an_http_tool_gets_a_secret_and_keeps_it(admin_client: Client) -> None:
    made = admin_client.post(f"{TOOL}add/", posted(new_headers=f"Authorization: Bearer {CANARY}"))
    assert made.status_code == 302
    tool = Tool.objects.get()
    secret = tool.reveal_signing_secret()
    assert len(secret) >= 40
    assert tool.reveal_headers() == {"Authorization": f"Bearer {CANARY}"}
    change = f"{TOOL}{tool.pk}/change/"
    assert admin_client.post(change, posted(description="New.")).status_code == 302
    tool.refresh_from_db()
    assert (tool.description, tool.reveal_signing_secret()) == ("New.", secret)
    for path in (TOOL, change, f"{TOOL}{tool.pk}/history/"):
        page = admin_client.get(path).content.decode()
        assert secret not in page and CANARY not in page


def test_stored_headers_do_not_follow_to_another_address(admin_client: Client) -> None:
    admin_client.post(f"{TOOL}add/", posted(new_headers=f"x-key: {CANARY}"))
    change = f"{TOOL}{Tool.objects.get().pk}/change/"
    refused = admin_client.post(change, posted(url="http://elsewhere.example/"))
    assert "new_headers" in errors_of(refused)
    again = posted(url="http://elsewhere.example/", new_headers="x-key: other")
    assert admin_client.post(change, again).status_code == 302
    assert Tool.objects.get().reveal_headers() == {"x-key": "other"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "get weather"}, "name"),
        ({"url": ""}, "__all__"),
        ({"kind": "client"}, "__all__"),
        ({"kind": "client", "url": "", "new_secret": CANARY}, "new_secret"),
        ({"url": "ftp://tools.example/"}, "url"),
        ({"parameters": '{"type": "string"}'}, "parameters"),
        ({"timeout_s": "0"}, "__all__"),
        ({"new_headers": "no colon here"}, "new_headers"),
        ({"new_headers": "Host: elsewhere"}, "new_headers"),
        ({"new_secret": "short"}, "new_secret"),
    ],
)
def test_a_wrong_tool_is_told_on_the_page(
    admin_client: Client, fields: dict[str, Any], field: str
) -> None:
    refused = admin_client.post(f"{TOOL}add/", posted(**fields))
    assert refused.status_code == 200 and field in errors_of(refused)
    assert not Tool.objects.exists()


def list_tools(client: Client, server: McpServer) -> Any:
    return client.post(f"{SERVER}{server.pk}/list_tools/", {"_form_submitted": "True"})


def test_a_server_lists_its_tools_on_its_page(admin_client: Client, settings: Any) -> None:
    listings.forget()
    settings.OUTBOUND_ALLOW = parse_networks("127.0.0.0/8")
    with mcp_process() as process:
        server = McpServer.objects.create(name="lab", url=process.url)
        page = list_tools(admin_client, server).content.decode()
        assert "3 tools" in page and "Adds two numbers." in page
    settings.OUTBOUND_ALLOW = ()
    assert "may not be used" in list_tools(admin_client, server).content.decode()


def test_a_reader_lists_nothing(client_with: ClientWith) -> None:
    server = McpServer.objects.create(name="lab", url="http://mcp.example/")
    reader = client_with("tools_app.view_mcpserver")
    assert list_tools(reader, server).status_code == 403


def test_a_key_is_given_tools_one_a_line(admin_client: Client) -> None:
    fields = {"name": "ci", "budget_period": "month", "allowed_tools": "get_*\nask_user\n"}
    assert admin_client.post("/admin/keys/virtualkey/add/", fields).status_code == 200
    assert VirtualKey.objects.get().allowed_tools == ["get_*", "ask_user"]
