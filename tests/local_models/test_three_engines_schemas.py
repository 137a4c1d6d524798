"""What a schema or a demanded call makes of a small model's answers: it is kept, every time."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from chat.errors import InvalidRequest, ToolChoiceNotMet, UpstreamRejected
from chat.folding import CompletionFolder
from chat.types import Batch
from providers.adapters.local import LocalAdapter
from providers.http import HttpClient
from providers.runner.supervisor import ensure_running
from tests.local_models.local import (
    CAPITAL,
    Local,
    chat,
    consume,
    cpu_ticks,
    shared,
    streamed_text,
    text_of,
    ticks_in_half_a_second,
    until,
)

pytestmark = pytest.mark.once

TRIES = {"llama": 50, "transformers": 20, "mlx": 8}
CALLS = {"llama": 50, "transformers": 10, "mlx": 1}
"""Our own engines share what holds them to a schema. On a CPU a token of MLX takes 0.15 s, and one
of llama.cpp 0.007: 20 of each were right with MLX too (2026-11-25)."""
ON_ONE_LINE = [{"role": "user", "content": "Say a place in JSON, on one line."}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
SMALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["city", "river"]},
        "marks": {"type": "array", "items": {"$ref": "#/$defs/mark"}, "maxItems": 2},
    },
    "required": ["kind", "marks"],
    "$defs": {"mark": {"type": "integer", "minimum": 0, "maximum": 9}},
}
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["city", "river"]},
        "names": {
            "type": "array",
            "items": {"type": "string", "maxLength": 6},
            "minItems": 1,
            "maxItems": 2,
        },
        "place": {"$ref": "#/$defs/place"},
    },
    "required": ["kind", "names", "place"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"side": {"$ref": "#/$defs/side"}},
            "required": ["side"],
            "additionalProperties": False,
        },
        "side": {"enum": ["north", "south"]},
    },
}
SCHEMAS = {"llama": NESTED, "transformers": SMALL, "mlx": SMALL}


@pytest.fixture(params=["llama", "transformers"])
def quick(
    request: pytest.FixtureRequest,
    children: dict[str, Local],
    tmp_path_factory: pytest.TempPathFactory,
) -> Local:
    """llama.cpp, and of our own engines the quicker one."""
    return shared(children, tmp_path_factory, request.param)


def tool(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


GET_WEATHER = tool(
    "get_weather",
    {"city": {"type": "string", "maxLength": 12}, "unit": {"$ref": "#/$defs/unit"}},
    **{"$defs": {"unit": {"enum": ["celsius", "fahrenheit"]}}},
)
GET_TIME = tool("get_time", {"zone": {"enum": ["utc", "cet"]}})
NAMED = {"type": "function", "function": {"name": "get_weather"}}


def held_to(schema: dict[str, Any], **fields: Any) -> Any:
    named = {"name": "answer", "strict": True, "schema": schema}
    format_ = {"type": "json_schema", "json_schema": named}
    return chat(ON_ONE_LINE, response_format=format_, **{"max_tokens": 400, **fields})


def demanding(**fields: Any) -> Any:
    defaults: dict[str, Any] = {
        "messages": WEATHER,
        "tools": [GET_WEATHER, GET_TIME],
        "tool_choice": NAMED,
        "max_tokens": 300,
    }
    return chat(**{**defaults, **fields})


async def choice_of(adapter: LocalAdapter, request: Any) -> dict[str, Any]:
    """The only choice of an answer, streamed or whole."""
    if not request.stream:
        [choice] = json.loads((await adapter.complete(request)).body)["choices"]
    else:
        [choice] = folded(await consume(adapter, request))["choices"]
    return dict(choice)


def folded(batches: list[Batch]) -> dict[str, Any]:
    folder = CompletionFolder()
    for batch in batches:
        for chunk in batch.chunks:
            folder.add(chunk)
    return folder.completion()


async def in_pairs(asked: list[Any], adapter: LocalAdapter) -> list[dict[str, Any]]:
    """As many at once as llama.cpp answers at once."""
    places = asyncio.Semaphore(2)

    async def ask(request: Any) -> dict[str, Any]:
        async with places:
            return await choice_of(adapter, request)

    return await asyncio.gather(*map(ask, asked))


async def test_every_answer_fits_its_schema(each: Local, http: HttpClient) -> None:
    schema = SCHEMAS[each.engine]
    asked = [
        held_to(schema, temperature=0.8, seed=seed, stream=seed % 2 == 0)
        for seed in range(TRIES[each.engine])
    ]
    for choice in await in_pairs(asked, each.adapter(http)):
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)
        assert choice["finish_reason"] == "stop"


async def test_every_demanded_call_has_valid_arguments(each: Local, http: HttpClient) -> None:
    asked = [
        demanding(tools=[GET_WEATHER], temperature=0.8, seed=seed, stream=seed % 2 == 0)
        for seed in range(CALLS[each.engine])
    ]
    for choice in await in_pairs(asked, each.adapter(http)):
        [call] = choice["message"]["tool_calls"]
        assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
        assert call["id"].startswith("call_")
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, GET_WEATHER["function"]["parameters"])
        assert choice["finish_reason"] == "tool_calls"
        assert not choice["message"]["content"]


async def test_a_required_call_is_of_an_offered_tool(quick: Local, http: HttpClient) -> None:
    request = demanding(tool_choice="required", tools=[GET_TIME])
    reply = await quick.adapter(http).complete(request)
    [choice] = json.loads(reply.body)["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_time"
    assert json.loads(call["function"]["arguments"])["zone"] in ("utc", "cet")
    assert reply.finish_reason == "tool_calls"
    assert request.emulated == {"tool_choice"}


async def test_several_calls_have_contiguous_indices(quick: Local, http: HttpClient) -> None:
    request = demanding(tool_choice="required", parallel_tool_calls=True, stream=True)
    batches = await consume(quick.adapter(http), request)
    deltas = [
        delta
        for batch in batches
        for chunk in batch.chunks
        for choice in chunk.choices
        for delta in choice.delta.tool_calls or ()
    ]
    indices = [delta.index for delta in deltas]
    assert sorted(indices) == indices
    assert sorted(set(indices)) == list(range(indices[-1] + 1))
    named = [delta.index for delta in deltas if delta.function and delta.function.name]
    assert named == sorted(set(indices))
    assert len(deltas) > len(named)  # arguments come in fragments


async def test_a_conversation_with_an_earlier_call_goes_on(quick: Local, http: HttpClient) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Paris", "unit": "celsius"}'}
    messages = [
        *WEATHER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "18 degrees"},
        {"role": "user", "content": "And in Rome?"},
    ]
    choice = await choice_of(quick.adapter(http), demanding(messages=messages, temperature=0))
    [call] = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"])["city"] == "Rome"


async def test_an_answer_of_any_object_is_one(quick: Local, http: HttpClient) -> None:
    request = chat(
        CAPITAL, response_format={"type": "json_object"}, temperature=0, seed=1, max_tokens=80
    )
    choice = await choice_of(quick.adapter(http), request)
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)
    assert choice["message"]["content"].startswith("{")


async def test_an_answer_cut_in_a_schema_says_that_its_limit_ended_it(
    quick: Local, http: HttpClient
) -> None:
    choice = await choice_of(quick.adapter(http), held_to(NESTED, max_tokens=3))
    assert choice["finish_reason"] == "length"


async def test_a_call_cut_before_it_began_is_not_told(quick: Local, http: HttpClient) -> None:
    for streamed in (False, True):
        with pytest.raises(ToolChoiceNotMet) as told:
            await consume(quick.adapter(http), demanding(max_tokens=2, stream=streamed))
        assert told.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
    ],
)
async def test_a_schema_no_engine_can_hold_to_is_refused_with_the_reason(
    quick: Local, http: HttpClient, schema: dict[str, Any], reason: str
) -> None:
    adapter = quick.adapter(http)
    for streamed in (False, True):
        with pytest.raises(UpstreamRejected) as refused:
            await consume(adapter, held_to(schema, stream=streamed))
        assert refused.value.http_status == 400
        assert reason in refused.value.message
    bad = tool("get_weather", {"city": schema})
    with pytest.raises(UpstreamRejected) as refused:
        await adapter.complete(demanding(tools=[bad]))
    assert (refused.value.http_status, refused.value.param) == (400, "tools")


async def test_a_tool_that_was_not_offered_cannot_be_demanded(
    quick: Local, http: HttpClient
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await quick.adapter(http).complete(demanding(tools=[GET_TIME]))
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("quick", ["transformers"], indirect=True)
async def test_sampling_log_probabilities_and_choices_go_with_a_schema(
    quick: Local, http: HttpClient
) -> None:
    request = held_to(SMALL, n=2, temperature=1.0, seed=3, logprobs=True, logit_bias={"1": 5})
    reply = await quick.adapter(http).complete(request)
    choices = json.loads(reply.body)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for choice in choices:
        text = choice["message"]["content"]
        jsonschema.validate(json.loads(text), SMALL)
        assert "".join(entry["token"] for entry in choice["logprobs"]["content"]) == text
    said = sum(len(choice["logprobs"]["content"]) for choice in choices)
    assert reply.usage is not None
    assert reply.usage.completion_tokens == said


@pytest.mark.parametrize("quick", ["transformers"], indirect=True)
async def test_each_choice_of_a_seed_is_another_and_the_same_again(
    quick: Local, http: HttpClient
) -> None:
    async def said() -> list[str]:
        request = chat(CAPITAL, n=3, temperature=1.5, seed=5, max_tokens=4, stream=True)
        choices = folded(await consume(quick.adapter(http), request))["choices"]
        return [choice["message"]["content"] for choice in choices]

    first = await said()
    assert len(set(first)) > 1
    assert await said() == first


@pytest.mark.parametrize("quick", ["transformers"], indirect=True)
async def test_who_leaves_a_schemas_answer_stops_it(quick: Local, http: HttpClient) -> None:
    await ensure_running(quick.model, data_dir=quick.data_dir)
    pid = quick.state.pid
    endless = {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3000}
    request = held_to(endless, max_tokens=3000, stream=True)
    stream = quick.adapter(http).stream(request)
    batches = [await anext(stream) for _ in range(6)]
    assert streamed_text(batches).startswith("[")
    idle = cpu_ticks(pid)
    await stream.aclose()
    await until(lambda: ticks_in_half_a_second(pid) < 10)
    assert cpu_ticks(pid) - idle < 1000
    assert "Paris" in text_of(
        (await quick.adapter(http).complete(chat(CAPITAL, temperature=0, max_tokens=24))).body
    )
