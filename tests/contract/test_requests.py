"""What leaves for an upstream: everything a caller said, or the name of what was left out."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from chat.errors import GatewayError, InvalidRequest
from chat.requests import ChatParams, ChatRequest
from tests.contract.dialects import Answer
from tests.contract.stage import HELLO, MODEL, SECRET, HttpStage, Stage, ask

pytestmark = pytest.mark.once

HI = Answer(words=("Hi",))
TOOLS = [
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "then", "parameters": {"type": "object"}}},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FIELDS: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": "none",
    "functions": [{"name": "now"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 17,
    "max_tokens": 17,
    "modalities": ["text", "audio"],
    "moderation": {"a": "b"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "k",
    "prompt_cache_options": {"a": "b"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    "safety_identifier": "who",
    "seed": 7,
    "service_tier": "flex",
    "stop": ["END"],
    "store": True,
    "temperature": 0.25,
    "tool_choice": "required",
    "tools": TOOLS,
    "top_logprobs": 3,
    "top_p": 0.25,
    "user": "who",
    "verbosity": "low",
    "web_search_options": {},
    # no fields of OpenAI's
    "a_field_of_next_year": {"kept": [1, None]},
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.5,
}
NEEDED: dict[str, dict[str, Any]] = {
    "tool_choice": {"tools": TOOLS},
    "parallel_tool_calls": {"tools": TOOLS},
    "top_logprobs": {"logprobs": True},
    "function_call": {"functions": [{"name": "now"}]},
}
"""Fields that mean nothing without others."""


def translated(stage: HttpStage, **fields: Any) -> ChatRequest:
    """A request that has to be put in the upstream's words, or is in them already."""
    request = stage.request(stream=True, **fields)
    if stage.dialect.wire != "openai":
        request.wire, request.native = "openai", None
    return request


async def sent(stage: HttpStage, request: ChatRequest) -> dict[str, Any] | GatewayError:
    """The body that left, or why none did."""
    error = await ask(stage.saying(HI), request)
    if stage.http.sent:
        return stage.http.sent[0].body
    assert error is not None
    return error


def test_every_field_is_tried() -> None:
    assert set(ChatParams.__struct_fields__) - FIELDS.keys() == {
        *("messages", "model", "stream"),
        "metadata",  # tags for the gateway itself
        "stream_options",  # of the stream the gateway makes
        *("tool_execution", "max_tool_rounds"),  # of the gateway's own running of tools
    }


@pytest.mark.parametrize("name", FIELDS)
async def test_a_field_goes_up_or_is_named_or_is_refused(http_stage: HttpStage, name: str) -> None:
    needed = NEEDED.get(name, {})
    request = translated(http_stage, **needed, **{name: FIELDS[name]})
    body = await sent(http_stage, request)
    if isinstance(body, GatewayError):
        assert isinstance(body, InvalidRequest)
        assert (body.param or "").split(".")[0] in {name, *needed}
        return
    without = await sent(http_stage, translated(http_stage, **needed))
    if name in request.dropped or request.emulated:
        return
    assert body != without, f"{name} was passed over in silence"


async def test_a_request_is_left_as_it_came(stage: Stage) -> None:
    fields = {
        name: FIELDS[name]
        for name in ("tools", "temperature", "stop", "max_tokens", "a_field_of_next_year", "user")
    }
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    marked = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [marked]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
        {"role": "assistant", "content": "Noon."},
        {"role": "user", "content": "And then?"},
    ]
    for stream in (True, False):
        request = stage.request(stream=stream, messages=messages, **fields, api_base="http://x")
        before = copy.deepcopy((request.body, request.native, request.params))
        for _ in range(2):
            assert await ask(stage.saying(HI), request) is None
        assert (request.body, request.native, request.params) == before


async def test_callers_do_not_say_whom_to_ask(http_stage: HttpStage) -> None:
    fields = {"api_key": "sk-theirs", "api_base": "http://evil", "base_url": "http://evil"}
    request = http_stage.request(stream=False, **fields)
    if request.native is not None:
        request.native.update(fields)
    await sent(http_stage, request)
    (left,) = http_stage.http.sent
    assert "evil" not in left.url + json.dumps(left.body) + repr(left.headers)
    assert "theirs" not in json.dumps(left.body) + repr(left.headers)
    assert fields.keys() <= request.dropped


async def test_the_upstream_is_asked_for_its_own_model_with_our_credential(
    http_stage: HttpStage,
) -> None:
    for stream in (True, False):
        body = await sent(http_stage, http_stage.request(stream=stream))
        assert isinstance(body, dict)
        assert body["model"] == MODEL
        assert SECRET in repr(http_stage.http.sent[0].headers)
        assert http_stage.dialect.read(body).streams is stream
        assert http_stage.dialect.read(body).question == HELLO[0]["content"]
