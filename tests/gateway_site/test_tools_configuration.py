"""Tools and MCP servers in a configuration file, and the commands that know of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from django.core.management import CommandError

from keys.models import VirtualKey
from providers.models import ConfigRevision
from tests.gateway_site.commands import Printed, run
from tools_app.models import McpServer, Tool

pytestmark = pytest.mark.django_db

Apply = Callable[..., Printed]
SECRET = "gws-canary-0123456789abcdef"
CITY = "{type: object, properties: {city: {type: string}}, required: [city]}"
WEATHER = f"""
tools:
  - {{name: get_weather, kind: http, url: "http://127.0.0.1:9100/weather", description: "…",
     parameters: {CITY}}}
"""
"""The contract's example."""
RICH = f"""
keys:
  - {{name: ci, secret: "gw-test-0123456789abcdef0123456789", tools: ["get_*"]}}
tools:
  - {{name: get_weather, kind: http, url: "https://example.test/w?token=canary-url",
     secret: {SECRET}, headers: {{authorization: "Bearer canary-header"}}, timeout_s: 5,
     parameters: {CITY}}}
  - {{name: ask_user, kind: client, enabled: false}}
  - {{name: search, kind: mcp, url: "https://example.test/mcp"}}
mcp_servers:
  - {{name: lab, url: "https://example.test/mcp", headers: {{x-key: canary-lab}}}}
"""


@pytest.fixture
def apply(tmp_path: Path) -> Apply:
    def call(text: str, *options: str) -> Printed:
        path = tmp_path / "tools.yaml"
        path.write_text(text, encoding="utf-8")
        return run("apply_config", str(path), *options)

    return call


def test_a_tool_without_a_secret_gets_one_and_keeps_it(apply: Apply) -> None:
    printed = apply(WEATHER)
    assert "+ tool get_weather" in printed.out
    assert "127.0.0.1 is closed to tools" in printed.out + printed.err
    secret = run("show_tool_secret", "get_weather").out.strip()
    assert len(secret) >= 40 and secret not in printed.out + printed.err
    assert "no changes" in apply(WEATHER).out
    assert run("show_tool_secret", "get_weather").out.strip() == secret


def test_a_change_of_the_tools_raises_the_revision(apply: Apply) -> None:
    before = ConfigRevision.objects.get().revision
    apply(RICH)
    between = ConfigRevision.objects.get().revision
    McpServer.objects.all().delete()
    assert before < between < ConfigRevision.objects.get().revision


def test_everything_a_file_says_is_stored_and_no_secret_shown(apply: Apply) -> None:
    printed = apply(RICH)
    assert "canary" not in printed.out + printed.err
    tool = Tool.objects.get(name="get_weather")
    assert tool.reveal_signing_secret() == SECRET
    assert tool.reveal_headers() == {"authorization": "Bearer canary-header"}
    assert (tool.timeout_s, tool.parameters["required"]) == (5.0, ["city"])
    assert McpServer.objects.get().reveal_headers() == {"x-key": "canary-lab"}
    assert not Tool.objects.get(name="ask_user").enabled
    assert VirtualKey.objects.get().allowed_tools == ["get_*"]
    changed = apply(RICH.replace("canary", "kanarie").replace("timeout_s: 5", "timeout: 6"))
    assert "~ tool get_weather" in changed.out and "~ MCP server lab" in changed.out
    assert "kanarie" not in changed.out and "timeout_s 5 -> 6" in changed.out


def test_an_export_changes_nothing_where_it_came_from(apply: Apply, tmp_path: Path) -> None:
    apply(RICH)
    text = run("export_config").out
    assert "canary" not in text.replace("token=canary-url", "")
    assert apply(text, "--prune").out == "no changes\n"
    assert run("export_config").out == text


def test_an_export_makes_an_empty_database_equal(
    apply: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(RICH)
    text = run("export_config").out
    exported = yaml.safe_load(text)
    tool = exported["tools"][1]
    monkeypatch.setenv(exported["keys"][0]["secret_env"], "gw-test-0123456789abcdef0123456789")
    Tool.objects.all().delete()
    with pytest.raises(CommandError, match="is not set"):
        apply(text)
    monkeypatch.setenv(tool["secret_env"], SECRET)
    monkeypatch.setenv(tool["headers_env"], json.dumps({"authorization": "Bearer canary-header"}))
    apply(text)
    assert run("export_config").out == text
    row = Tool.objects.get(name="get_weather")
    assert row.reveal_signing_secret() == SECRET
    assert row.reveal_headers() == {"authorization": "Bearer canary-header"}


def test_prune_takes_away_what_is_not_named(apply: Apply) -> None:
    apply(RICH)
    printed = apply(WEATHER, "--prune")
    assert {"- tool ask_user", "- tool search", "- MCP server lab"} <= set(printed.out.splitlines())
    assert [row.name for row in Tool.objects.all()] == ["get_weather"]


def test_a_kind_without_a_secret_loses_it(apply: Apply) -> None:
    apply(RICH)
    apply("tools: [{name: get_weather, kind: client}]")
    assert Tool.objects.get(name="get_weather").signing_secret == ""


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("name: get weather, kind: client", "tools[0].name: Use 1 to 64"),
        ("name: a", "tools[0].kind: is required"),
        ("name: a, kind: python", "tools[0].kind: must be one of client, http, mcp"),
        ("name: a, kind: http", "needs a url"),
        ("name: a, kind: http, url: 'ftp://x'", "tools[0].url: Use a plain"),
        ("name: a, kind: client, url: 'http://x/'", "a client tool has no url"),
        ("name: a, kind: client, secret: gws-0123456789abcdef", "only the calls of http tools"),
        ("name: a, kind: http, url: 'http://x/', secret: ''", "must have 20 characters"),
        ("name: a, kind: http, url: 'http://x/', headers: {a b: c}", "plain word"),
        ("name: a, kind: client, parameters: {type: string}", "tools[0].parameters"),
        ("name: a, kind: client, code: print(1)", "tools[0].code: unknown field"),
        ("name: a, kind: http, url: 'http://x/', timeout_s: 601", "tools[0].timeout_s"),
        ("name: a, kind: http, url: 'http://x/', timeout: 5, timeout_s: 5", "unknown field"),
    ],
)
def test_a_wrong_entry_is_told_with_its_place(apply: Apply, entry: str, problem: str) -> None:
    with pytest.raises(CommandError) as caught:
        apply(f"tools: [{{{entry}}}]")
    assert problem in str(caught.value)
    assert not Tool.objects.exists()


def test_a_name_is_a_tool_or_a_server(apply: Apply) -> None:
    apply("mcp_servers: [{name: lab, url: 'https://example.test/mcp'}]")
    with pytest.raises(CommandError, match="lab is the name of an MCP server too"):
        apply("tools: [{name: lab, kind: client}]")
    apply("tools: [{name: lab, kind: client}]", "--prune")
    assert not McpServer.objects.exists()


def test_only_http_tools_have_a_secret_to_show(apply: Apply) -> None:
    apply(RICH)
    for name, reason in (("search", "has no secret"), ("nothing", "There is no tool")):
        with pytest.raises(CommandError, match=reason):
            run("show_tool_secret", name)


def test_a_key_is_made_for_some_tools() -> None:
    run("create_key", "ci", "--tools", "get_*", "ask_user")
    assert VirtualKey.objects.get().allowed_tools == ["get_*", "ask_user"]
