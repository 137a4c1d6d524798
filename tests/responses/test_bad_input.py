"""What no upstream should see: the gateway answers it itself and says where it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway import KEY, Gateway
from tests.responses.calls import MODEL, NATIVE, call
from tests.upstream import Upstream, completion, whole
from tests.wire.test_bad_input import NOT_JSON, OTHER_VALUES

pytestmark = pytest.mark.once

TEXTS = (
    *("instructions", "previous_response_id", "prompt_cache_key", "prompt_cache_retention"),
    *("safety_identifier", "service_tier", "user"),
)
NUMBERS = ("temperature", "top_p")
COUNTS = ("max_output_tokens", "max_tool_calls", "top_logprobs")
SWITCHES = ("background", "parallel_tool_calls", "store", "stream")
OBJECTS = (
    *("metadata", "moderation", "prompt", "prompt_cache_options", "reasoning"),
    *("stream_options", "text"),
)
LISTS = ("context_management", "include", "tools")
WRONG_TYPES: list[tuple[str, Any]] = [
    *((name, 7) for name in TEXTS),
    *((name, "7") for name in (*NUMBERS, *COUNTS)),
    *((name, 1.5) for name in COUNTS),
    *((name, "true") for name in SWITCHES),
    *((name, []) for name in OBJECTS),
    *((name, "x") for name in OBJECTS),
    *((name, {}) for name in LISTS),
    ("model", 5),
    ("input", 5),
    ("input", {}),
    ("tool_choice", True),
    ("conversation", 5),
    ("truncation", "perhaps"),
    ("max_output_tokens", 0),
]


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [fields]}


def part(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [fields]}]}


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}
WRONG_PLACES: list[tuple[str, dict[str, Any]]] = [
    ("input[0]", {"input": ["hello"]}),
    ("input[0].type", {"input": [{}]}),
    ("input[0].role", item(type="message", content="x")),
    ("input[0].role", item(role="owner", content="x")),
    ("input[0].role", item(role=["user"], content="x")),
    ("input[0].content", item(role="user")),
    ("input[0].content", item(role="user", content=5)),
    ("input[0].content", item(role="user", content=[])),
    ("input[0].content[0]", item(role="user", content=["x"])),
    ("input[0].content[0].type", part(text="x")),
    ("input[0].content[0].text", part(type="input_text")),
    ("input[0].content[0].text", part(type="input_text", text=5)),
    ("input[0].content[0].image_url", part(type="input_image")),
    ("input[0].content[0].file_data", part(type="input_file")),
    ("input[0].content[0].input_audio", part(type="input_audio")),
    ("input[0].content[0].input_audio.data", part(type="input_audio", input_audio={})),
    ("input[0].call_id", item(type="function_call_output", output="x")),
    ("input[0].output", item(type="function_call_output", call_id="c")),
    ("input[0].name", item(type="function_call", call_id="c", arguments="{}")),
    ("input[0].arguments", item(type="function_call", call_id="c", name="f", arguments={})),
    ("input[0]", {"input": [{"type": "item_reference", "id": "msg_nobody_knows"}]}),
    ("tools[0].type", {"input": "x", "tools": [{}]}),
    ("tools[0].name", {"input": "x", "tools": [{"type": "function"}]}),
    (
        "tools[0].parameters",
        {"input": "x", "tools": [{"type": "function", "name": "f", "parameters": 5}]},
    ),
    ("tool_choice", {"input": "x", "tool_choice": "sometimes"}),
    ("tool_choice", {"input": "x", "tool_choice": "required"}),
    ("tool_choice", {"input": "x", "tool_choice": {"type": "function", "name": "g"}}),
    ("text.format.schema", {"input": "x", "text": {"format": {"type": "json_schema"}}}),
    ("input", {}),
    ("input", {"input": []}),
    ("previous_response_id", {"input": "x", "previous_response_id": "a\0b"}),
    ("conversation", {"input": "x", "conversation": "a\0b"}),
    ("conversation", {"input": "x", "conversation": "c", "previous_response_id": "r"}),
    ("store", {"input": "x", "conversation": "c", "store": False}),
    ("store", {"input": "x", "background": True, "store": False}),
    ("store", {"input": "x", "background": True, "stream": True, "store": False}),
]
ONLY_NATIVE: list[tuple[str, dict[str, Any]]] = [
    ("previous_response_id", {"input": "x", "previous_response_id": "resp_nobody_knows"}),
    ("input[0]", {"input": [CALL]}),
    ("input[0]", {"input": [RESULT]}),
    ("input[0]", item(type="web_search_call", id="ws_1", status="completed")),
    ("input[0].content[0].file_id", part(type="input_image", file_id="file_1")),
    ("input[0].content[0].file_url", part(type="input_file", file_url="https://example.com/a.pdf")),
    ("input[0].content[0].type", part(type="hologram")),
    ("tools[0].type", {"input": "x", "tools": [{"type": "mcp", "server_label": "a"}]}),
    ("tools[0].type", {"input": "x", "tools": [{"type": "custom", "name": "a"}]}),
    ("tool_choice", {"input": "x", "tool_choice": {"type": "file_search"}}),
    ("text.format.type", {"input": "x", "text": {"format": {"type": "grammar"}}}),
    ("prompt", {"prompt": {"id": "pmpt_1"}}),
]


@pytest.fixture(autouse=True)
def _never_asked(upstream: Upstream) -> Any:
    upstream.script = whole(200, completion())
    yield
    assert upstream.asked == []


def refused(gateway: Gateway, body: Any, *, status: int = 400) -> dict[str, Any]:
    answered = call(gateway, "POST", "", body)
    assert answered.status == status, answered.body
    told = answered.json()
    assert told.keys() == {"error"}
    error: dict[str, Any] = told["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    return error


@pytest.mark.parametrize("model", [MODEL, NATIVE])
@pytest.mark.parametrize(("name", "value"), WRONG_TYPES, ids=lambda value: str(value))
def test_a_field_of_a_wrong_type_is_refused_by_name(
    served: Gateway, name: str, value: Any, model: str
) -> None:
    error = refused(served, {"model": model, "input": "x", name: value})
    assert error["param"] == name


@pytest.mark.parametrize("model", [MODEL, NATIVE])
@pytest.mark.parametrize(("place", "fields"), WRONG_PLACES, ids=lambda value: str(value)[:60])
def test_what_is_malformed_is_refused_by_its_place_whoever_would_serve_it(
    served: Gateway, place: str, fields: dict[str, Any], model: str
) -> None:
    error = refused(served, {"model": model, **fields})
    assert error["param"] == place


@pytest.mark.parametrize(("place", "fields"), ONLY_NATIVE, ids=lambda value: str(value)[:60])
def test_what_a_chat_completion_cannot_say_is_refused_by_its_place(
    served: Gateway, place: str, fields: dict[str, Any]
) -> None:
    error = refused(served, {"model": MODEL, **fields})
    assert error["param"] == place


@pytest.mark.parametrize(("what", "body"), NOT_JSON, ids=[what for what, _ in NOT_JSON])
def test_what_is_not_plain_json_is_refused(served: Gateway, what: str, body: bytes) -> None:
    refused(served, body.replace(b'"messages"', b'"input"'))


@pytest.mark.parametrize("body", OTHER_VALUES)
def test_json_that_is_no_object_is_refused(served: Gateway, body: bytes) -> None:
    assert refused(served, body)["code"] == "invalid_type"


def test_an_unknown_model_is_404(served: Gateway) -> None:
    error = refused(served, {"model": "nobody/x", "input": "x"}, status=404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_another_content_type_is_415(served: Gateway) -> None:
    body = json.dumps({"model": MODEL, "input": "x"}).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "text/plain"}
    assert served.call("POST", "/v1/responses", body, headers).status == 415


@pytest.mark.parametrize(
    "query",
    [
        *(f"limit={each}" for each in ("0", "101", "-1", "x", "1.5", "%D9%A3", "9" * 50)),
        "order=up",
        "after=x",
    ],
)
def test_a_page_that_cannot_be_is_refused(served: Gateway, upstream: Upstream, query: str) -> None:
    made = call(served, "POST", "", {"model": MODEL, "input": "x"}).json()
    upstream.asked = []
    answered = call(served, "GET", f"/{made['id']}/input_items?{query}")
    assert answered.status == 400
    assert answered.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PUT", ""),
        ("POST", "/resp_x"),
        ("DELETE", "/resp_x/cancel"),
        ("POST", "/resp_x/input_items"),
    ],
)
def test_another_method_is_405(served: Gateway, method: str, path: str) -> None:
    answered = call(served, method, path)
    assert answered.status == 405
    assert "allow" in answered.headers
