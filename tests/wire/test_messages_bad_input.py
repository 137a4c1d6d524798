"""What no upstream should see on the Anthropic wire: the gateway answers it, in its envelope."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway import KEY, Answered, Gateway
from tests.upstream import Upstream, completion, whole
from tests.wire.test_bad_input import OTHER_VALUES

pytestmark = pytest.mark.once

MODEL = "scripted/gpt-4o-mini"
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {"name": "now", "input_schema": {"type": "object"}}
PATHS = ("/v1/messages", "/v1/messages/count_tokens")
OF_A_PROMPT: list[tuple[str, Any]] = [
    ("messages", {}),
    ("messages", "hello"),
    ("messages", None),
    ("messages", []),
    ("model", 5),
    ("system", 5),
    ("system", {"type": "text", "text": "x"}),
    ("tools", {}),
    ("tools", "now"),
    ("tool_choice", "auto"),
    ("tool_choice", []),
    ("thinking", True),
    ("thinking", "enabled"),
    ("output_config", []),
    ("output_config", "low"),
]
OF_A_MESSAGE: list[tuple[str, Any]] = [
    ("max_tokens", "7"),
    ("max_tokens", 1.5),
    ("max_tokens", -1),
    ("max_tokens", None),
    ("max_tokens", True),
    ("stream", "true"),
    ("stream", 1),
    ("temperature", "7"),
    ("top_p", []),
    ("top_k", "7"),
    ("top_k", 0.5),
    ("stop_sequences", "END"),
    ("stop_sequences", [1]),
    ("metadata", "u1"),
    ("metadata", {"user_id": 5}),
    ("service_tier", 1),
]


def user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"messages": [*HELLO, {"role": "assistant", "content": list(blocks)}]}


WRONG_PLACES: list[tuple[str, dict[str, Any]]] = [
    ("messages[0]", {"messages": ["hello"]}),
    ("messages[0].role", {"messages": [{"content": "hello"}]}),
    ("messages[0].role", {"messages": [{"role": "tool", "content": "hello"}]}),
    ("messages[0].content", {"messages": [{"role": "user"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": None}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": {"type": "text"}}]}),
    ("messages[0]", {"messages": [{"role": "user", "content": []}]}),
    ("messages[0].content[0]", user("hello")),
    ("messages[0].content[0].type", user({"text": "x"})),
    ("messages[0].content[0]", user({"type": "text"})),
    ("messages[0].content[0].text", user({"type": "text", "text": 5})),
    (
        "messages[0].content[0].cache_control",
        user({"type": "text", "text": "x", "cache_control": 1}),
    ),
    ("messages[0].content[0]", user({"type": "image"})),
    ("messages[0].content[0]", user({"type": "image", "source": "https://x.example/a.png"})),
    ("messages[0].content[0].source", user({"type": "image", "source": {"type": "url"}})),
    ("messages[0].content[0].source", user({"type": "image", "source": {"type": "base64"}})),
    (
        "messages[0].content[0].source",
        user({"type": "image", "source": {"type": "base64", "data": "aGk="}}),
    ),
    ("messages[0].content[0].source.type", user({"type": "document", "source": {"data": "x"}})),
    ("messages[0].content[0]", user({"type": "tool_result", "content": "x"})),
    (
        "messages[0].content[0]",
        user({"type": "tool_result", "tool_use_id": "a", "content": {"type": "text"}}),
    ),
    (
        "messages[0].content[0].content[0]",
        user({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text"}]}),
    ),
    ("messages[0]", user({"type": "tool_use", "id": "a", "name": "now", "input": {}})),
    ("messages[0]", user({"type": "thinking", "thinking": "x", "signature": ""})),
    ("messages[1]", assistant({"type": "tool_result", "tool_use_id": "a"})),
    ("messages[1].content[0]", assistant({"type": "tool_use", "id": "a", "name": "now"})),
    (
        "messages[1].content[0].input",
        assistant({"type": "tool_use", "id": "a", "name": "now", "input": "{}"}),
    ),
    ("messages[1].content[0]", assistant({"type": "thinking"})),
    ("messages[1].content[0]", assistant({"type": "redacted_thinking"})),
    ("system[0]", {"messages": HELLO, "system": ["x"]}),
    ("system[0]", {"messages": HELLO, "system": [{"type": "text"}]}),
    (
        "system[0]",
        {
            "messages": HELLO,
            "system": [{"type": "image", "source": {"type": "url", "url": "https://x.example"}}],
        },
    ),
    ("tools[0]", {"messages": HELLO, "tools": [{}]}),
    ("tools[0]", {"messages": HELLO, "tools": [{"name": "now"}]}),
    ("tools[0]", {"messages": HELLO, "tools": [{"type": "custom", "input_schema": {}}]}),
    ("tools[0].input_schema", {"messages": HELLO, "tools": [{"name": "n", "input_schema": "x"}]}),
    ("tool_choice.type", {"messages": HELLO, "tools": [TOOL], "tool_choice": {}}),
    ("tool_choice.type", {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "auto!"}}),
    ("tool_choice", {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "tool"}}),
    (
        "tool_choice.name",
        {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "later"}},
    ),
    ("thinking", {"messages": HELLO, "thinking": {"type": "enabled"}}),
    (
        "output_config.format",
        {"messages": HELLO, "output_config": {"format": {"type": "json_schema"}}},
    ),
    ("tools[0].type", {"messages": HELLO, "tools": [{"type": "bash_20250124", "name": "bash"}]}),
    (
        "mcp_servers",
        {"messages": HELLO, "mcp_servers": [{"type": "url", "url": "https://x.example"}]},
    ),
    ("container", {"messages": HELLO, "container": "container_1"}),
    (
        "messages[0].content[0].source",
        user({"type": "image", "source": {"type": "file", "file_id": "file_1"}}),
    ),
    ("messages[0].content[0].type", user({"type": "container_upload", "file_id": "file_1"})),
]


def valid(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 50, "messages": HELLO, **fields}


def raw(extra: bytes) -> bytes:
    """A valid request with one more member, as these bytes."""
    return json.dumps(valid()).encode()[:-1] + b", " + extra + b"}"


def deep_results(depth: int) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": "x"}
    for _ in range(depth):
        block = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
    return valid(messages=[{"role": "user", "content": [block]}])


NOT_JSON: list[tuple[str, bytes]] = [
    ("NaN", raw(b'"temperature": NaN')),
    ("a lone surrogate", raw(b'"x": "\\ud800"')),
    ("a name that stands twice", raw(b'"model": "scripted/gpt-4o"')),
    ("arrays 2,000 deep", raw(b'"deep": ' + b"[" * 2000 + b"1" + b"]" * 2000)),
    ("a truncated object", json.dumps(valid()).encode()[:-5]),
    ("nothing", b""),
    ("bytes that are not UTF-8", raw(b'"x": "\xff\xfe"')),
    ("a number too large", raw(b'"temperature": 1e999')),
]


@pytest.fixture(autouse=True)
def _never_asked(upstream: Upstream) -> Any:
    upstream.script = whole(200, completion())
    yield
    assert upstream.asked == []


def post(gateway: Gateway, request: Any, path: str = PATHS[0], **headers: str) -> Answered:
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    all_headers = {"x-api-key": KEY, "content-type": "application/json", **named}
    return gateway.call("POST", path, body, all_headers)


def check_error(
    answered: Answered, *, status: int = 400, kind: str = "invalid_request_error"
) -> str:
    """The message of an answer in Anthropic's envelope."""
    assert answered.status == status, answered
    assert answered.headers["content-type"].startswith("application/json")
    body = answered.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["error"].keys() == {"type", "message"}
    assert body["error"]["type"] == kind
    assert body["request_id"] == answered.headers["request-id"] == answered.headers["x-request-id"]
    message: str = body["error"]["message"]
    assert message
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "value"), OF_A_PROMPT, ids=lambda value: str(value))
def test_a_field_of_a_wrong_type_is_refused_by_name(
    gateway: Gateway, path: str, name: str, value: Any
) -> None:
    assert name in check_error(post(gateway, valid(**{name: value}), path))


@pytest.mark.parametrize(("name", "value"), OF_A_MESSAGE, ids=lambda value: str(value))
def test_a_knob_of_a_wrong_type_is_refused_by_name(gateway: Gateway, name: str, value: Any) -> None:
    assert name in check_error(post(gateway, valid(**{name: value})))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("place", "fields"), WRONG_PLACES, ids=lambda value: str(value)[:60])
def test_what_is_wrong_further_down_is_refused_by_its_place(
    gateway: Gateway, path: str, place: str, fields: dict[str, Any]
) -> None:
    message = check_error(post(gateway, {"model": MODEL, "max_tokens": 50, **fields}, path))
    assert place in message


@pytest.mark.parametrize("name", ["messages", "max_tokens"])
def test_a_missing_field_is_named(gateway: Gateway, name: str) -> None:
    request = {key: value for key, value in valid().items() if key != name}
    assert check_error(post(gateway, request)) == f"Missing required parameter: '{name}'."


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("what", "body"), NOT_JSON, ids=[what for what, _ in NOT_JSON])
def test_what_is_not_plain_json_is_refused(
    gateway: Gateway, path: str, what: str, body: bytes
) -> None:
    check_error(post(gateway, body, path))


@pytest.mark.parametrize("body", OTHER_VALUES)
def test_json_that_is_no_object_is_refused(gateway: Gateway, body: bytes) -> None:
    check_error(post(gateway, body))


@pytest.mark.parametrize("depth", [2, 60, 124, 126, 300])
def test_results_within_results_are_refused(gateway: Gateway, depth: int) -> None:
    check_error(post(gateway, deep_results(depth)))


@pytest.mark.parametrize("path", PATHS)
def test_a_body_of_40_mb_is_too_large(gateway: Gateway, path: str) -> None:
    body = json.dumps(valid(system="x" * 40_000_000)).encode()
    check_error(post(gateway, body, path), status=413, kind="request_too_large")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data", ""])
def test_another_content_type_is_415(gateway: Gateway, path: str, content_type: str) -> None:
    check_error(post(gateway, valid(), path, content_type=content_type), status=415)


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_model_is_404(gateway: Gateway, path: str) -> None:
    answered = post(gateway, valid(model="nobody/has-this"), path)
    assert "nobody/has-this" in check_error(answered, status=404, kind="not_found_error")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["gw-wrong", "", "x" * 5000])
def test_a_wrong_key_is_401(gateway: Gateway, path: str, key: str) -> None:
    answered = post(gateway, valid(), path, x_api_key=key)
    message = check_error(answered, status=401, kind="authentication_error")
    assert "gw-wrong" not in message


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_405_and_says_which_are_allowed(
    gateway: Gateway, path: str, method: str
) -> None:
    answered = gateway.call(method, path, None, {"x-api-key": KEY})
    check_error(answered, status=405)
    assert "POST" in answered.headers["allow"]


@pytest.mark.parametrize(
    "path", ["/v1/messages/batches", "/v1/messages/batches/b1", "/v1/messages/"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_address_below_is_404(gateway: Gateway, path: str, method: str) -> None:
    answered = gateway.call(method, path, b"{}" if method == "POST" else None, {"x-api-key": KEY})
    check_error(answered, status=404, kind="not_found_error")


def test_the_server_still_serves_afterwards(gateway: Gateway, upstream: Upstream) -> None:
    assert post(gateway, valid()).status == 200
    assert len(upstream.asked) == 1
    upstream.asked = []
