"""What no upstream should see: every request here is answered by the gateway itself."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.gateway import KEY, Answered, Gateway
from tests.upstream import Upstream, completion, whole

pytestmark = pytest.mark.once

HELLO = [{"role": "user", "content": "hello"}]
TEXTS = (
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "user",
    "verbosity",
)
NUMBERS = ("frequency_penalty", "presence_penalty", "temperature", "top_p")
COUNTS = ("max_completion_tokens", "max_tokens", "n", "seed", "top_logprobs")
SWITCHES = ("logprobs", "parallel_tool_calls", "store", "stream")
OBJECTS = (
    "audio",
    "logit_bias",
    "metadata",
    "moderation",
    "prediction",
    "prompt_cache_options",
    "response_format",
    "stream_options",
    "web_search_options",
)
LISTS = ("functions", "modalities", "tools")
WRONG_TYPES: list[tuple[str, Any]] = [
    *((name, 7) for name in TEXTS),
    *((name, "7") for name in NUMBERS),
    *((name, "7") for name in COUNTS),
    *((name, 1.5) for name in COUNTS),
    *((name, "true") for name in SWITCHES),
    *((name, 1) for name in SWITCHES),
    *((name, []) for name in OBJECTS),
    *((name, "x") for name in OBJECTS),
    *((name, {}) for name in LISTS),
    *((name, "x") for name in LISTS),
    ("function_call", 1),
    ("model", 5),
    ("stop", 1),
    ("tool_choice", True),
    ("messages", {}),
    ("messages", "hello"),
    ("messages", None),
]
WRONG_PLACES: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": []}),
    ("messages[0]", {"messages": ["hello"]}),
    ("messages[0].role", {"messages": [{"content": "hello"}]}),
    ("messages[0].role", {"messages": [{"role": "owner", "content": "hello"}]}),
    ("messages[0]", {"messages": [{"role": "user"}]}),
    ("messages[0]", {"messages": [{"role": "user", "content": []}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": 5}]}),
    ("messages[1].content", {"messages": [*HELLO, {"role": "user", "content": {"a": 1}}]}),
    ("messages[0].content[0]", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
    ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}),
    ("messages[0]", {"messages": [{"role": "tool", "content": "x"}]}),
    (
        "messages[0].tool_calls[0].id",
        {"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]},
    ),
    ("tools[0]", {"messages": HELLO, "tools": [{"type": "function"}]}),
    ("tools[0].type", {"messages": HELLO, "tools": [{"type": 1, "function": {"name": "x"}}]}),
    (
        "tools[0].function.name",
        {"messages": HELLO, "tools": [{"type": "function", "function": {}}]},
    ),
    ("response_format.type", {"messages": HELLO, "response_format": {}}),
    ("stop[1]", {"messages": HELLO, "stop": ["a", 1]}),
    (
        "stream_options.include_usage",
        {"messages": HELLO, "stream_options": {"include_usage": "yes"}},
    ),
    ("n", {"messages": HELLO, "n": 0}),
]


def valid(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted/gpt-4o-mini", "messages": HELLO, **fields}


def raw(extra: bytes) -> bytes:
    """A valid request with one more member, as these bytes."""
    return json.dumps(valid()).encode()[:-1] + b", " + extra + b"}"


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return raw(b'"deep": ' + opening * depth + b"1" + closing * depth)


NOT_JSON: list[tuple[str, bytes]] = [
    ("NaN", raw(b'"temperature": NaN')),
    ("Infinity", raw(b'"temperature": Infinity')),
    ("minus Infinity", raw(b'"temperature": -Infinity')),
    ("a lone surrogate", raw(b'"user": "\\ud800"')),
    ("a lone low surrogate", raw(b'"user": "\\udc00x"')),
    ("a name that stands twice", raw(b'"user": "a", "user": "b"')),
    ("a model that stands twice", raw(b'"model": "scripted/gpt-4o"')),
    ("a name that stands twice, once escaped", raw(b'"user": "a", "us\\u0065r": "b"')),
    ("a name that stands twice further down", raw(b'"metadata": {"a": "1", "a": "2"}')),
    ("arrays 2,000 deep", nested(2000)),
    ("objects 2,000 deep", nested(2000, b'{"a":', b"}")),
    ("arrays 100,000 deep", nested(100_000)),
    ("arrays 300 deep", nested(300)),
    ("objects 300 deep", nested(300, b'{"a":', b"}")),
    ("a truncated object", json.dumps(valid()).encode()[:-5]),
    ("nothing", b""),
    ("blanks", b"  \n "),
    ("words", b"hello"),
    ("bytes that are not UTF-8", raw(b'"user": "\xff\xfe"')),
    ("Latin-1", raw('"user": "é"'.encode("latin-1"))),
    ("UTF-16", json.dumps(valid()).encode("utf-16")),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(valid()).encode()),
    ("something after the object", json.dumps(valid()).encode() + b"{}"),
    ("a trailing comma", json.dumps(valid()).encode()[:-1] + b",}"),
    ("single quotes", b"{'model': 'x'}"),
    ("a comment", b"/* hello */ {}"),
    ("a control character", raw(b'"user": "a\x01b"')),
    ("a number too large", raw(b'"temperature": 1e999')),
]
OTHER_VALUES = [b"[]", b"[1, 2]", b'"hello"', b"5", b"null", b"true"]


@pytest.fixture(autouse=True)
def _never_asked(upstream: Upstream) -> Any:
    upstream.script = whole(200, completion())
    yield
    assert upstream.asked == []


def check_error(answered: Answered, *, statuses: tuple[int, ...] = (400,)) -> dict[str, Any]:
    """The error of an answer in the one envelope there is."""
    assert answered.status in statuses, answered
    assert answered.headers["content-type"].startswith("application/json")
    assert "x-request-id" in answered.headers
    body = answered.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "Traceback" not in error["message"]
    return error


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES, ids=lambda value: str(value))
def test_a_field_of_a_wrong_type_is_refused_by_name(
    gateway: Gateway, name: str, value: Any
) -> None:
    error = check_error(gateway.chat(valid(**{name: value})))
    assert error["param"] == name
    assert name in error["message"]


@pytest.mark.parametrize(("place", "fields"), WRONG_PLACES, ids=lambda value: str(value)[:60])
def test_what_is_wrong_further_down_is_refused_by_its_place(
    gateway: Gateway, place: str, fields: dict[str, Any]
) -> None:
    error = check_error(gateway.chat({"model": "scripted/gpt-4o-mini", **fields}))
    assert error["param"] == place


def test_missing_messages_are_a_missing_parameter(gateway: Gateway) -> None:
    error = check_error(gateway.chat({"model": "scripted/gpt-4o-mini"}))
    assert (error["param"], error["code"]) == ("messages", "missing_required_parameter")


@pytest.mark.parametrize(("what", "body"), NOT_JSON, ids=[what for what, _ in NOT_JSON])
def test_what_is_not_plain_json_is_refused(gateway: Gateway, what: str, body: bytes) -> None:
    error = check_error(gateway.chat(body))
    assert error["code"] in ("invalid_json", "invalid_type", "invalid_value")


@pytest.mark.parametrize("body", OTHER_VALUES)
def test_json_that_is_no_object_is_refused(gateway: Gateway, body: bytes) -> None:
    assert check_error(gateway.chat(body))["code"] == "invalid_type"


def test_a_body_of_40_mb_is_too_large(gateway: Gateway) -> None:
    body = json.dumps(valid(user="x" * 40_000_000)).encode()
    error = check_error(gateway.chat(body), statuses=(413,))
    assert error["code"] == "request_too_large"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_another_content_type_is_415(gateway: Gateway, content_type: str) -> None:
    answered = gateway.chat(valid(), content_type=content_type)
    assert check_error(answered, statuses=(415,))["code"] == "unsupported_media_type"


def test_a_body_without_content_type_is_415(gateway: Gateway) -> None:
    body = json.dumps(valid()).encode()
    answered = gateway.call(
        "POST", "/v1/chat/completions", body, {"authorization": f"Bearer {KEY}"}
    )
    assert check_error(answered, statuses=(415,))["code"] == "unsupported_media_type"


def test_a_packed_body_is_415(gateway: Gateway) -> None:
    packed = gzip.compress(json.dumps(valid()).encode())
    error = check_error(gateway.chat(packed, content_encoding="gzip"), statuses=(415,))
    assert "content-encoding" in error["message"]
    assert gateway.chat(b"{", content_encoding="identity").status == 400


def test_an_unknown_model_is_404(gateway: Gateway) -> None:
    error = check_error(gateway.chat(valid(model="nobody/has-this")), statuses=(404,))
    assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize(
    "name",
    ["x" * 100_000, "scripted/" * 40, "../../etc/passwd", "a\nb", "smart\x00", "é" * 500],
)
def test_a_strange_model_name_is_404(gateway: Gateway, name: str) -> None:
    error = check_error(gateway.chat(valid(model=name)), statuses=(400, 404))
    assert len(error["message"]) < 2000


def test_the_server_still_serves_afterwards(gateway: Gateway, upstream: Upstream) -> None:
    answered = gateway.chat(valid())
    assert answered.status == 200
    assert len(upstream.asked) == 1
    upstream.asked = []
