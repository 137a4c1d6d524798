"""`/v1/tools`, and tools that requests name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_api.resources import install_journal
from providers.outbound import parse_networks
from tests.gateway_api.conftest import Ask, make_key, make_provider
from tests.tools_app.stage import mcp_process
from tests.upstream import Upstream, scripted_upstream, silence, whole
from tools_app import registration
from tools_app import snapshot as tools
from tools_app.models import McpServer, Tool
from usage.journal import Journal

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": CITY,
    "kind": "client",
}
PUBLIC = "http://93.184.216.34/weather"


@pytest.fixture(autouse=True)
def _open(settings: Any) -> None:
    settings.OUTBOUND_ALLOW = parse_networks("127.0.0.0/8")


def register(ask: Ask, key: str | None = "admin", **fields: Any) -> Any:
    return ask("POST", "/v1/tools/register", {**WEATHER, **fields}, key=key)


# --- registration -------------------------------------------------------------------------------


def test_a_registered_tool_is_listed_found_and_deleted(ask: Ask) -> None:
    made = register(ask)
    assert (made.status_code, made.json()) == (201, {"status": "registered", "tool": WEATHER})
    assert ask("GET", "/v1/tools").json() == {"tools": [WEATHER], "count": 1}
    assert ask("GET", "/v1/tools/get_weather").json() == WEATHER
    gone = ask("DELETE", "/v1/tools/get_weather", key="admin")
    assert (gone.status_code, gone.json()) == (200, {"status": "deleted", "name": "get_weather"})
    assert ask("GET", "/v1/tools").json() == {"tools": [], "count": 0}
    assert ask("GET", "/v1/tools/get_weather").status_code == 404
    assert ask("DELETE", "/v1/tools/get_weather", key="admin").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [
        ("GET", "/v1/tools", (200, 200, 401)),
        ("GET", "/v1/tools/get_weather", (200, 200, 401)),
        ("DELETE", "/v1/tools/get_weather", (200, 403, 401)),
        ("DELETE", "/v1/tools/nothing", (404, 403, 401)),
        ("POST", "/v1/tools/register", (201, 403, 401)),
    ],
)
def test_who_may_do_what(ask: Ask, method: str, path: str, statuses: tuple[int, ...]) -> None:
    for key, status in zip(("admin", "user", None), statuses, strict=True):
        Tool.objects.all().delete()
        Tool.objects.create(name="get_weather", kind="client")
        body = {**WEATHER, "name": "other"} if method == "POST" else None
        answer = ask(method, path, body, key=key)
        assert answer.status_code == status, (key, answer.text)
        if status >= 400:
            assert Tool.objects.count() == 1 and "error" in answer.json()


def test_a_secret_is_told_once_and_nowhere_else(ask: Ask) -> None:
    made = register(ask, kind="http", url=PUBLIC, headers={"authorization": "Bearer canary-t0k"})
    assert made.status_code == 201, made.text
    secret = made.json()["signing_secret"]
    assert len(secret) >= 40 and "signing_secret" not in made.json()["tool"]
    row = Tool.objects.get()
    assert row.reveal_signing_secret() == secret
    assert row.reveal_headers() == {"authorization": "Bearer canary-t0k"}
    assert secret not in row.signing_secret and "canary" not in row.headers
    told = [
        ask("GET", path, key=key).text
        for path in ("/v1/tools", "/v1/tools/get_weather")
        for key in ("admin", "user")
    ]
    for text in [*told, repr(row.history.values().get())]:
        assert secret not in text and "canary" not in text
    assert all(
        "93.184" not in ask("GET", path).text for path in ("/v1/tools", "/v1/tools/get_weather")
    )


def test_a_name_is_taken_once_by_a_tool_or_a_server(ask: Ask) -> None:
    McpServer.objects.create(name="lab", url=PUBLIC)
    Tool.objects.create(name="off", kind="client", enabled=False)
    assert register(ask).status_code == 201
    for name in ("get_weather", "lab", "off"):
        answer = register(ask, name=name)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "tool_exists")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "get weather"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": ""}, "name"),
        ({"name": "register"}, "name"),
        ({"name": 3}, "name"),
        ({"name": None}, "name"),
        ({"kind": "python"}, "kind"),
        ({"kind": None}, "kind"),
        ({"parameters": None}, "parameters"),
        ({"parameters": "{}"}, "parameters"),
        ({"parameters": {"type": "string"}}, "parameters"),
        ({"parameters": {"type": "object", "properties": 3}}, "parameters"),
        ({"parameters": {"type": "object", "required": "city"}}, "parameters"),
        ({"parameters": {"type": "object", "$ref": "http://127.0.0.1/schema"}}, "parameters"),
        ({"parameters": {"type": "object", "title": "a\0b"}}, "parameters"),
        ({"description": "a\0b"}, "description"),
        ({"description": "x" * 10_001}, "description"),
        ({"url": PUBLIC}, "url"),
        ({"headers": {"a": "b"}}, "headers"),
        ({"kind": "http"}, "url"),
        ({"kind": "mcp"}, "url"),
        ({"kind": "http", "url": "ftp://93.184.216.34/"}, "url"),
        ({"kind": "http", "url": "http://user:pw@93.184.216.34/"}, "url"),
        ({"kind": "http", "url": "http://10.0.0.7/"}, "url"),
        ({"kind": "http", "url": "http://169.254.169.254/latest"}, "url"),
        ({"kind": "http", "url": "http://2130706433/"}, "url"),
        ({"kind": "mcp", "url": "http://[::ffff:10.0.0.7]/"}, "url"),
        ({"kind": "http", "url": PUBLIC + "x" * 500}, "url"),
        ({"kind": "http", "url": PUBLIC, "headers": {"a b": "c"}}, "headers"),
        ({"kind": "http", "url": PUBLIC, "headers": {"a": "b\r\nc: d"}}, "headers"),
        ({"kind": "http", "url": PUBLIC, "headers": {"a": 3}}, "headers"),
        ({"kind": "http", "url": PUBLIC, "headers": {"Host": "x"}}, "headers"),
        ({"kind": "http", "url": PUBLIC, "headers": {"x-gateway-signature": "x"}}, "headers"),
        ({"kind": "http", "url": PUBLIC, "timeout": 0}, "timeout"),
        ({"kind": "http", "url": PUBLIC, "timeout": 601}, "timeout"),
        ({"kind": "http", "url": PUBLIC, "timeout": True}, "timeout"),
        ({"kind": "http", "url": PUBLIC, "timeout_s": 601}, "timeout_s"),
        ({"kind": "http", "url": PUBLIC, "timeout": 5, "timeout_s": 5}, "timeout_s"),
        ({"kind": "http", "url": PUBLIC, "headers": {"Key": "a", "key": "b"}}, "headers"),
        ({"code": "print(1)"}, "code"),
        ({"command": ["sh"]}, "command"),
    ],
)
def test_what_is_no_tool_is_refused_by_its_field(
    ask: Ask, fields: dict[str, Any], param: str
) -> None:
    answer = register(ask, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert not Tool.objects.exists() and not McpServer.objects.exists()


@pytest.mark.parametrize("name", ["timeout", "timeout_s"])
def test_a_timeout_goes_by_the_name_it_has_in_the_file_too(ask: Ask, name: str) -> None:
    fields: dict[str, Any] = {"kind": "http", "url": PUBLIC, name: 7}
    assert register(ask, **fields).json()["tool"]["timeout"] == 7


def test_loopback_is_closed_to_tools_by_default(ask: Ask, settings: Any) -> None:
    settings.OUTBOUND_ALLOW = ()
    answer = register(ask, kind="http", url="http://127.0.0.1:9100/weather")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "url_not_permitted")


# --- which tools there are for whom -------------------------------------------------------------


def test_a_tool_that_a_key_may_not_use_does_not_exist(ask: Ask) -> None:
    make_key("narrow", allowed_tools=["get_*"])
    register(ask)
    register(ask, name="send_mail")
    listed = ask("GET", "/v1/tools", key="narrow").json()
    assert [tool["name"] for tool in listed["tools"]] == ["get_weather"]
    hidden = ask("GET", "/v1/tools/send_mail", key="narrow")
    absent = ask("GET", "/v1/tools/send_none", key="narrow")
    assert hidden.status_code == absent.status_code == 404
    assert hidden.text.replace("send_mail", "") == absent.text.replace("send_none", "")


def test_a_disabled_tool_does_not_exist(ask: Ask) -> None:
    Tool.objects.create(name="off", kind="client", enabled=False)
    assert ask("GET", "/v1/tools/off", key="admin").status_code == 404
    assert ask("GET", "/v1/tools", key="admin").json()["count"] == 0


def test_a_whole_mcp_server_brings_its_tools(ask: Ask) -> None:
    with mcp_process() as server:
        body = {"name": "lab", "kind": "mcp", "url": server.url}
        made = ask("POST", "/v1/tools/register", body, key="admin")
        assert made.status_code == 201, made.text
        assert made.json()["tool"]["tools"] == ["add", "hang", "fail"]
        listed = ask("GET", "/v1/tools").json()["tools"]
        assert [(tool["name"], tool["kind"]) for tool in listed] == [
            ("add", "mcp"),
            ("fail", "mcp"),
            ("hang", "mcp"),
        ]
        assert server.url not in ask("GET", "/v1/tools/add").text
        refused = ask("DELETE", "/v1/tools/add", key="admin")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "tool_of_mcp_server")
        assert ask("DELETE", "/v1/tools/lab", key="admin").status_code == 200
        assert ask("GET", "/v1/tools/add").status_code == 404


def test_a_server_that_is_down_does_not_hide_the_other_tools(ask: Ask) -> None:
    McpServer.objects.create(name="down", url="http://127.0.0.1:9/mcp")
    register(ask)
    assert ask("GET", "/v1/tools").json()["count"] == 1


def test_nothing_is_said_of_tools_before_they_are_read(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(ask)
    monkeypatch.setattr(tools, "current", lambda: tools.EMPTY)
    for path in ("/v1/tools", "/v1/tools/get_weather"):
        answer = ask("GET", path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_a_tool_registered_twice_at_once_is_registered_once(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(ask)
    monkeypatch.setattr(registration, "_is_taken", lambda _: False)  # as another sees it now
    assert register(ask).status_code == 409
    assert Tool.objects.count() == 1


# --- tools that requests name -------------------------------------------------------------------


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with scripted_upstream(silence) as upstream:
        yield upstream


COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
OWN: dict[str, Any] = {
    "type": "function",
    "function": {"name": "own", "parameters": {"type": "object"}},
}
DEFINED: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells the weather.", "parameters": CITY},
}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses": {"input": "Hi", "store": False},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
    "/api/chat": {"messages": [{"role": "user", "content": "Hi"}], "stream": False},
}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[None]:
    journal = Journal(tmp_path / "journal", "test", 1 << 24)
    install_journal(journal)
    yield
    install_journal(None)
    journal.shut()


@pytest.fixture
def chat(ask: Ask, upstream: Upstream, journal: None) -> Any:
    upstream.script = whole(200, COMPLETION)
    make_provider("lab", upstream.base_url)

    def call(path: str, tools: Any, **fields: Any) -> Any:
        body = {**REQUESTS[path], "model": "lab/m", "tools": tools}
        return ask("POST", path, body, **fields)

    return call


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("named", ["get_weather", {"type": "gateway", "name": "get_weather"}])
def test_a_named_tool_is_defined_on_every_wire(
    ask: Ask, chat: Any, upstream: Upstream, path: str, named: Any
) -> None:
    register(ask)
    answer = chat(path, [named])
    assert answer.status_code == 200, answer.text
    sent = upstream.asked[-1].json()["tools"]
    defined = copy.deepcopy(DEFINED)
    if path == "/v1/responses":
        defined["function"]["strict"] = False
    assert sent == [defined]


def test_named_tools_stand_beside_defined_ones(ask: Ask, chat: Any, upstream: Upstream) -> None:
    register(ask)
    assert chat("/v1/chat/completions", [OWN, "get_weather"]).status_code == 200
    assert upstream.asked[-1].json()["tools"] == [OWN, DEFINED]


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(
    ("tools", "param"),
    [
        (["nothing"], "tools[0]"),
        ([{"type": "gateway", "name": "nothing"}], "tools[0]"),
        ([{"type": "gateway"}], "tools[0].name"),
    ],
)
def test_an_unknown_tool_is_refused_by_its_place(
    chat: Any, upstream: Upstream, path: str, tools: Any, param: str
) -> None:
    answer = chat(path, tools)
    assert answer.status_code == 400, answer.text
    assert "nothing" in answer.text or param in answer.text
    assert upstream.asked == []


def test_a_tool_that_the_key_may_not_use_is_unknown(ask: Ask, chat: Any) -> None:
    make_key("narrow", allowed_tools=["other"])
    register(ask)
    hidden = chat("/v1/chat/completions", ["get_weather"], key="narrow")
    absent = chat("/v1/chat/completions", ["get_nothing"], key="narrow")
    assert hidden.status_code == absent.status_code == 400
    assert hidden.text.replace("get_weather", "") == absent.text.replace("get_nothing", "")


def test_other_mistakes_in_tools_are_told_as_before(chat: Any) -> None:
    for wrong in ([3], [{"type": "function"}], [None]):
        answer = chat("/v1/chat/completions", wrong)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"].startswith("tools[0]")


def test_a_word_that_only_looks_like_a_name_changes_nothing(chat: Any, upstream: Upstream) -> None:
    described = copy.deepcopy(OWN)
    described["function"]["parameters"]["enum"] = ["gateway"]
    assert chat("/v1/chat/completions", [described]).status_code == 200
    assert upstream.asked[-1].json()["tools"] == [described]
