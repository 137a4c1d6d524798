"""The tools in memory: in force soon after a change, and what there is while nothing was read."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection

from gateway_site.background import Follower
from providers import snapshot as providers
from providers.secrets import encrypt
from tools_app import snapshot
from tools_app.models import McpServer, Tool

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_in_force() -> None:
    snapshot.install(snapshot.EMPTY)


def test_any_change_of_the_tables_is_followed() -> None:
    Follower().step()
    with connection.cursor() as cursor:
        for change in (
            lambda: Tool.objects.create(name="a", kind="client"),
            lambda: Tool.objects.filter(name="a").update(description="New."),
            lambda: McpServer.objects.create(name="lab", url="http://mcp.example/"),
            lambda: cursor.execute("UPDATE tools_app_mcpserver SET timeout_s = 7"),
            lambda: cursor.execute("DELETE FROM tools_app_tool"),
        ):
            before = snapshot.current()
            change()
            Follower().step()
            assert snapshot.current() is not before
            assert snapshot.current().revision == providers.read_revision()
    assert list(snapshot.current().tools) == []
    assert snapshot.current().servers["lab"].timeout_s == 7
    providers.install(providers.EMPTY)


def test_secrets_under_another_key_are_a_problem_of_their_tool_alone() -> None:
    stranger = encrypt("x")[:-9] + "AAAAAAAA="
    Tool.objects.create(name="lost", kind="http", url="http://t.example/", signing_secret=stranger)
    Tool.objects.create(name="fine", kind="client")
    McpServer.objects.create(name="lab", url="http://mcp.example/", headers=stranger)
    tools = snapshot.load()
    assert tools.tools["lost"].problem and tools.servers["lab"].problem
    assert tools.tools["fine"].problem is None


def test_no_secret_shows_in_what_is_logged() -> None:
    tool = Tool(name="a", kind="http", url="http://t.example/")
    tool.set_signing_secret("gws-canary-secret-0123")
    tool.set_headers({"authorization": "Bearer canary"})
    server = McpServer(name="b", url="http://t.example/")
    server.set_headers({"authorization": "Bearer canary"})
    told = repr((snapshot.tool_facts(tool), snapshot.server_facts(server), tool, server))
    assert "canary" not in told


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "http", "url": "http://t.example/"},
        {"kind": "http", "signing_secret": "x"},
        {"kind": "client", "url": "http://t.example/"},
        {"kind": "python"},
        {"kind": "client", "timeout_s": 0},
        {"kind": "client", "timeout_s": 601},
    ],
)
def test_the_database_itself_refuses_what_is_no_tool(fields: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        Tool.objects.create(name="a", **fields)
