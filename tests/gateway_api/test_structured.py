"""`POST /v1/generate/structured`: an object that fits a model, or one error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway import Answered, Gateway
from tests.upstream import Asked, Peer, Script, Upstream, completion

pytestmark = pytest.mark.once

FIELDS = {"name": {"type": "string"}, "age": {"type": "integer"}, "city": {"type": "string"}}
JOHN = '{"name": "John Doe", "age": 25, "city": "New York"}'
YOUNG = '{"name": "John Doe", "age": "25", "city": "New York"}'
NODE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}


def in_turn(*said: str, **message: Any) -> Script:
    """One answer after another, the last one ever after."""
    left = list(said)

    async def script(asked: Asked, peer: Peer) -> None:
        text = left.pop(0) if len(left) > 1 else left[0]
        peer.answer(200, json.dumps(completion(text, **message)).encode())

    return script


@pytest.fixture
def gateway(mixed_gateway: Gateway) -> Gateway:
    return mixed_gateway


def generate(gateway: Gateway, **fields: Any) -> Answered:
    body = {"model": "scripted/m", "prompt": "Who is he?", "response_model": FIELDS, **fields}
    return gateway.post(
        "/v1/generate/structured", {name: v for name, v in body.items() if v is not None}
    )


def test_the_bare_object_comes_back_to_the_letter(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = in_turn(JOHN)
    answered = generate(gateway)
    assert (answered.status, answered.body.decode()) == (200, JOHN)
    assert answered.headers["x-gateway-attempts"] == "1"
    assert answered.headers["x-gateway-tokens-input"] == "9"
    assert answered.headers["x-gateway-tokens-output"] == "3"
    (asked,) = upstream.asked
    wanted = asked.json()["response_format"]["json_schema"]
    assert wanted["strict"] is True
    assert wanted["schema"] == {
        "type": "object",
        "properties": FIELDS,
        "required": ["name", "age", "city"],
        "additionalProperties": False,
    }


def test_a_prompt_stands_after_the_system_prompt_and_the_messages(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = in_turn(JOHN)
    said = [{"role": "user", "content": "A."}, {"role": "assistant", "content": "B."}]
    generate(gateway, messages=said, system_prompt="S.", temperature=0.5)
    asked = upstream.asked[0].json()
    assert [each["content"] for each in asked["messages"]] == ["S.", "A.", "B.", "Who is he?"]
    assert asked["temperature"] == 0.5
    assert {"prompt", "system_prompt", "response_model", "max_retries"}.isdisjoint(asked)


def test_an_invalid_answer_is_asked_for_again_and_all_of_it_is_counted(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = in_turn(YOUNG, "I do not know.", JOHN)
    answered = generate(gateway)
    assert answered.json()["age"] == 25
    assert answered.headers["x-gateway-attempts"] == "3"
    assert answered.headers["x-gateway-tokens-input"] == "27"
    row = gateway.usage_row(answered.headers["x-request-id"])
    assert (row["attempts"], row["tokens_input"], row["status"]) == (3, 27, "success")
    assert "'25' is not of type 'integer'" in upstream.asked[1].json()["messages"][-1]["content"]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (None, 4)])
def test_an_answer_that_stays_invalid_is_422(
    gateway: Gateway, upstream: Upstream, retries: int | None, attempts: int
) -> None:
    upstream.script = in_turn(YOUNG)
    answered = generate(gateway, max_retries=retries)
    error = answered.json()["error"]
    assert (answered.status, error["code"]) == (422, "structured_output_invalid")
    assert error["validation_errors"] == [
        {"path": "$.age", "message": "'25' is not of type 'integer'"}
    ]
    assert error["last_text"] == YOUNG
    assert len(upstream.asked) == attempts
    row = gateway.usage_row(answered.headers["x-request-id"])
    assert (row["status"], row["tokens_input"]) == ("error", 9 * attempts)


def test_a_refusal_is_no_object(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = in_turn("", refusal="I will not.")
    answered = generate(gateway)
    assert answered.status == 422
    assert answered.json()["error"]["last_text"] == "I will not."
    assert len(upstream.asked) == 1


@pytest.mark.parametrize("model", ["scripted/m", "llama/m"])
def test_a_schema_may_refer_to_itself(gateway: Gateway, upstream: Upstream, model: str) -> None:
    tree = {"value": 1, "children": [{"value": 2, "children": []}]}

    async def script(asked: Asked, peer: Peer) -> None:
        text = json.dumps(tree)
        message = {"role": "assistant", "content": text}
        line = {"model": "m", "message": message, "done": True, "done_reason": "stop"}
        whole = line if asked.path == "/api/chat" else completion(text)
        peer.answer(200, json.dumps(whole).encode())

    upstream.script = script
    assert generate(gateway, model=model, response_model=NODE).json() == tree


BAD: list[tuple[str, dict[str, Any]]] = [
    ("response_model", {"response_model": None}),
    ("response_model", {"response_model": {}}),
    ("response_model", {"response_model": [1]}),
    ("response_model.type", {"response_model": {"type": "objekt"}}),
    ("response_model.properties.a.minimum", {"response_model": {"a": {"minimum": "1"}}}),
    ("response_model.properties.a.pattern", {"response_model": {"a": {"pattern": "(a)\\1"}}}),
    ("response_model.properties.a.$ref", {"response_model": {"a": {"$ref": "http://x.test/"}}}),
    ("response_model.properties.a.not", {"response_model": {"a": {"not": {"type": "null"}}}}),
    ("response_model.if", {"response_model": {"type": "object", "if": {}}}),
    ("response_model", {"response_model": {"$ref": "#"}}),
    ("response_model", {"response_model": {"a": {"enum": ["x" * 200] * 1000}}}),
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": 7}),
    ("messages[0].role", {"messages": [{"role": "king", "content": "x"}]}),
    ("max_retries", {"max_retries": -1}),
    ("max_retries", {"max_retries": 1000}),
    ("stream", {"stream": True}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "x"}}]}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("n", {"n": 2}),
]


@pytest.mark.parametrize(("param", "fields"), BAD)
def test_bad_input_is_told_by_its_place_and_costs_nothing(
    gateway: Gateway, upstream: Upstream, param: str, fields: dict[str, Any]
) -> None:
    answered = generate(gateway, **fields)
    assert (answered.status, answered.json()["error"]["param"]) == (400, param)
    assert upstream.asked == []


def test_a_schema_that_nests_without_an_end_in_sight_is_refused(
    gateway: Gateway, upstream: Upstream
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"properties": {"a": deep}}
    answered = generate(gateway, response_model=deep)
    assert (answered.status, answered.json()["error"]["code"]) == (400, "invalid_schema")
    assert upstream.asked == []


def test_nobody_generates_without_a_key(gateway: Gateway) -> None:
    headers = {"content-type": "application/json"}
    assert gateway.call("POST", "/v1/generate/structured", b"{}", headers).status == 401


# --- the same guarantee on every wire -----------------------------------------------------------


def test_a_stream_that_is_never_valid_has_a_status_of_its_own(
    gateway: Gateway, upstream: Upstream
) -> None:
    """The upstream is Ollama, which does not hold a model to a format beside tools."""

    async def script(asked: Asked, peer: Peer) -> None:
        message = {"role": "assistant", "content": "Hm."}
        line = {"model": "m", "message": message, "done": True, "done_reason": "stop"}
        peer.answer(200, json.dumps(line).encode())

    upstream.script = script
    schema = {"type": "object", "properties": FIELDS}
    tool = {"name": "now", "description": "The time.", "parameters": {"type": "object"}}
    hello = [{"role": "user", "content": "Hello"}]
    asked = {"model": "llama/m", "messages": hello, "stream": True}
    answers = [
        gateway.chat(
            {
                **asked,
                "tools": [{"type": "function", "function": tool}],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": schema},
                },
            }
        ),
        gateway.post(
            "/v1/messages",
            {
                **asked,
                "max_tokens": 50,
                "tools": [{"name": "now", "input_schema": {"type": "object"}}],
                "output_config": {"format": {"type": "json_schema", "schema": schema}},
            },
        ),
    ]
    assert [answered.status for answered in answers] == [422, 422]
    assert answers[0].json()["error"]["last_text"] == "Hm."
    assert answers[1].json()["error"]["details"]["last_text"] == "Hm."
