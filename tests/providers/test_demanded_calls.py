"""Calls that a request demands of a local model: what is asked, and what is read of the answer."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import orjson
import pytest

from chat.errors import InvalidRequest, ToolChoiceNotMet, UpstreamFailed
from chat.folding import CompletionFolder
from chat.parsing import parse_chat_request
from chat.requests import ChatRequest
from chat.types import Batch, ChatChunk, ChunkChoice, Delta, Reply
from providers.adapters.demanded_calls import MAX_CALLS, CallRestorer, Demand, ask, read_demand
from providers.adapters.held import require_modest
from providers.adapters.huggingface import HuggingFaceAdapter
from providers.adapters.mlx import MLXAdapter
from providers.adapters.written_calls import CallReader

pytestmark = pytest.mark.once

UNIT = {"$defs": {"unit": {"enum": ["c", "f"]}}}
GET = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Gets it",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/unit"}},
            "required": ["city"],
            **UNIT,
        },
    },
}
PING: dict[str, Any] = {"type": "function", "function": {"name": "ping"}}
NAMED = {"type": "function", "function": {"name": "get"}}
ALLOWED = {
    "type": "allowed_tools",
    "allowed_tools": {"mode": "required", "tools": [{"type": "function", **PING}]},
}


def request(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return parse_chat_request(json.dumps(body).encode())


def demand(**fields: Any) -> Demand | None:
    return read_demand(request(**{"tools": [GET, PING], **fields}))


def asked(*, knows_tools: bool = False, **fields: Any) -> dict[str, Any]:
    made = request(**{"tools": [GET, PING], "tool_choice": "required", **fields})
    found = read_demand(made)
    assert found is not None
    return ask(made, found, knows_tools=knows_tools).body


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, None),
        ("auto", None),
        ("none", None),
        ("required", ["get", "ping"]),
        (NAMED, ["get"]),
        (ALLOWED, ["ping"]),
        ({**ALLOWED, "allowed_tools": {**ALLOWED["allowed_tools"], "mode": "auto"}}, None),  # type: ignore[dict-item]
    ],
)
def test_a_demand_is_read_out_of_the_tool_choice(choice: Any, names: list[str] | None) -> None:
    found = demand(tool_choice=choice)
    assert names == (found and [tool.name for tool in found.tools])


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tool_choice": "required", "tools": []},
        {"tool_choice": "must"},
        {"tool_choice": {"type": "custom"}},
        {"tool_choice": "required", "tools": [{"type": "custom", "custom": {"name": "x"}}]},
    ],
)
def test_a_demand_that_cannot_be_met_is_the_callers_error(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        demand(**fields)


@pytest.mark.parametrize(
    ("call", "fits"),
    [
        ({"name": "get", "arguments": {"city": "Paris", "unit": "c"}}, True),
        ({"name": "get", "arguments": {"city": "Paris", "unit": "k"}}, False),
        ({"name": "get", "arguments": {}}, False),
        ({"name": "ping", "arguments": {}}, True),
        ({"name": "ping", "arguments": {"a": 1}}, False),
        ({"name": "other", "arguments": {}}, False),
        ({"name": "get", "arguments": {"city": "Paris"}, "more": 1}, False),
    ],
)
def test_the_schema_takes_calls_of_the_tools_and_nothing_else(call: Any, fits: bool) -> None:
    found = demand(tool_choice="required")
    assert found is not None
    assert jsonschema.Draft202012Validator(found.schema()).is_valid(call) is fits


def test_several_calls_are_asked_for_only_where_the_caller_says_so() -> None:
    one = {"name": "ping", "arguments": {}}
    for parallel, answer in ((True, [one, one]), (False, one), (None, one)):
        found = demand(tool_choice="required", parallel_tool_calls=parallel)
        assert found is not None
        validator = jsonschema.Draft202012Validator(found.schema())
        assert validator.is_valid(answer)
        assert not validator.is_valid([])
        assert not validator.is_valid([one] * (MAX_CALLS + 1))


def test_the_callers_own_format_gives_way_to_the_call() -> None:
    body = asked(response_format={"type": "json_object"}, parallel_tool_calls=False, top_k=4)
    assert body["response_format"]["type"] == "json_schema"
    assert not body.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    assert body["top_k"] == 4


def test_a_model_that_knows_tools_is_told_of_them_by_its_template() -> None:
    body = asked(knows_tools=True)
    assert (body["tools"], body["tool_choice"]) == ([GET, PING], "none")
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_another_is_told_of_them_in_its_system_message() -> None:
    told = asked(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    )
    first, second = told["messages"]
    assert first["role"] == "system"
    assert first["content"].startswith("Be brief.")
    assert "Gets it" in first["content"]
    assert second == {"role": "user", "content": "hi"}
    assert [each["role"] for each in asked()["messages"]] == ["system", "user"]


def test_earlier_calls_and_their_results_are_told_in_words() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get", "arguments": '{"city":"P"}'}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Wait.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "18"}]},
    ]
    _, _, said, result = asked(messages=messages)["messages"]
    assert said == {
        "role": "assistant",
        "content": 'Wait.\n{"name": "get", "arguments": {"city":"P"}}',
    }
    assert result["role"] == "user"
    assert "18" in result["content"]


TEXTS = [
    '{"name": "get", "arguments": {"city": "a \\"}{ b", "at": {"x": [1, {}]}}}',
    '{\n  "name"\n:"get" , "arguments"\n\n:\n {}\n}\n',
    '[{"name":"get","arguments":{"city":"\\\\"}}, {"name": "ping", "arguments": {}} ]',
]


@pytest.mark.parametrize("text", TEXTS)
def test_calls_are_the_same_however_their_text_is_cut(text: str) -> None:
    written = json.loads(text)
    calls = written if isinstance(written, list) else [written]
    for size in range(1, len(text) + 1):
        reader = CallReader()
        read: dict[int, dict[str, str]] = {}
        for at in range(0, len(text), size):
            for delta in reader.feed(text[at : at + size]):
                assert delta.function is not None
                call = read.setdefault(delta.index, {"name": "", "arguments": ""})
                assert (delta.id is not None) == (call["name"] == "")
                call["name"] += delta.function.name or ""
                call["arguments"] += delta.function.arguments or ""
        assert [
            {**call, "arguments": json.loads(call["arguments"])} for call in read.values()
        ] == calls


def test_arguments_go_out_as_they_come() -> None:
    reader = CallReader()
    assert reader.feed('{"name": "get", "arg') == []
    [begun] = reader.feed('uments": {"city": "P')
    assert begun.function is not None
    assert (begun.function.name, begun.function.arguments) == ("get", '{"city": "P')
    [more] = reader.feed("aris")
    assert more.function is not None
    assert (more.id, more.function.name, more.function.arguments) == (None, None, "aris")


def reply(content: str | None, finish: str = "stop") -> Reply:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return Reply(orjson.dumps({"id": "x", "choices": [choice]}), finish, None)


def batches(*texts: str, finish: str = "stop") -> list[Batch]:
    deltas = [Delta(role="assistant", content=""), *(Delta(content=text) for text in texts)]
    chunks = [ChatChunk([ChunkChoice(0, delta)]) for delta in deltas]
    last = ChatChunk([ChunkChoice(0, Delta(), finish)])  # type: ignore[arg-type]
    return [Batch([chunk], b"bytes of the upstream's") for chunk in (*chunks, last)]


def test_a_whole_answer_and_a_stream_tell_the_same_calls() -> None:
    whole = orjson.loads(CallRestorer().whole(reply(TEXTS[2])).body)["choices"][0]
    calls, folder = CallRestorer(), CompletionFolder()
    for batch in batches(*TEXTS[2]):
        restored = calls.batch(batch)
        for chunk in restored.chunks if restored else ():
            folder.add(chunk)
        assert restored is None or restored.wire is None
    [streamed] = folder.completion()["choices"]
    for choice in (whole, streamed):
        assert choice["message"]["content"] is None
        assert choice["finish_reason"] == "tool_calls"
    assert len({call.pop("id") for call in whole["message"]["tool_calls"]}) == 2
    for call in streamed["message"]["tool_calls"]:
        call.pop("id")
    assert streamed["message"]["tool_calls"] == whole["message"]["tool_calls"]


def test_a_call_cut_at_the_limit_says_so() -> None:
    told = CallRestorer().whole(reply('{"name": "get", "arguments": {"ci', "length"))
    [choice] = orjson.loads(told.body)["choices"]
    assert choice["finish_reason"] == told.finish_reason == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"ci'


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_an_answer_without_a_call_is_none(finish: str) -> None:
    with pytest.raises(ToolChoiceNotMet):
        CallRestorer().whole(reply("Paris.", finish))
    calls = CallRestorer()
    with pytest.raises(ToolChoiceNotMet):
        for batch in batches("Paris", ".", finish=finish):
            calls.batch(batch)


def test_an_answer_of_another_shape_is_the_models_failure() -> None:
    with pytest.raises(UpstreamFailed):
        CallRestorer().whole(Reply(b'{"choices": [{}]}', None, None))


def held_to(schema: dict[str, Any]) -> ChatRequest:
    named = {"name": "x", "schema": schema}
    return request(response_format={"type": "json_schema", "json_schema": named})


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"value {at}" for at in range(1001)]},
        {"properties": {f"p{at}": {"type": "string"} for at in range(1001)}},
        {"anyOf": [{"enum": ["a", "b", "c"]}] * 300},
    ],
)
def test_a_schema_that_would_hold_up_others_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        require_modest(held_to(schema), param="response_format")
    assert refused.value.code == "schema_too_large"


def test_a_schema_of_a_usual_size_is_not() -> None:
    properties = {f"p{at}": {"type": "string", "description": "x" * 500} for at in range(200)}
    schema = {"properties": properties, "required": list(properties)}
    require_modest(held_to(schema), param="response_format")
    require_modest(request(response_format={"type": "json_object"}), param="response_format")


@pytest.mark.parametrize("adapter", [HuggingFaceAdapter, MLXAdapter])
def test_flags_of_a_kind_are_those_of_the_runner_without_an_address(
    adapter: type[HuggingFaceAdapter | MLXAdapter],
) -> None:
    here, there = adapter.defaults_at(""), adapter.defaults_at("http://far")
    assert here.structured_output and here.json_mode and here.tool_choice
    assert there == adapter.defaults
    assert there.tools and not here.tools
