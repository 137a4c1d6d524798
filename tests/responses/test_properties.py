"""Whatever chunks come, the events are ones the SDK can add up; whatever callers send, nothing but
an error of ours comes of it."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import urlencode

import msgspec
import orjson
import pytest
from django.http import QueryDict
from hypothesis import given, settings
from hypothesis import strategies as st
from openai._types import omit
from openai.lib.streaming.responses._responses import ResponseStreamState

from chat.errors import GatewayError
from chat.types import ChatChunk, ChunkChoice, Delta, FunctionDelta, ToolCallDelta, Usage
from gateway_api.openai.responses.builder import ResponseBuilder
from gateway_api.openai.responses.context import Context
from gateway_api.openai.responses.items import read_input, with_ids
from gateway_api.openai.responses.messages import Untranslatable, messages_from
from gateway_api.openai.responses.pages import page_of
from gateway_api.openai.responses.params import ResponsesParams, parse_responses_request
from gateway_api.openai.responses.prepared import prepare
from gateway_api.openai.responses.resource import response_object
from providers.adapters.base import Endpoint
from providers.adapters.openai_responses import ResponsesReader
from tests.responses.calls import event_type, response, typed_events

pytestmark = pytest.mark.once

ENDPOINT = Endpoint(base_url="http://127.0.0.1:1/v1", api_key="sk-x", model="m")

texts = st.text(max_size=8)
functions = st.builds(
    FunctionDelta, name=st.none() | st.sampled_from(["f", "g"]), arguments=st.none() | texts
)
calls = st.builds(
    ToolCallDelta,
    index=st.integers(0, 3),
    id=st.none() | st.sampled_from(["call_a", "call_b"]),
    function=st.none() | functions,
)
deltas = st.builds(
    Delta,
    role=st.none() | st.just("assistant"),
    content=st.none() | texts,
    refusal=st.none() | texts,
    reasoning_content=st.none() | texts,
    reasoning=st.none() | texts,
    thinking_blocks=st.none() | st.just([{"type": "thinking", "thinking": "", "signature": "s"}]),
    tool_calls=st.none() | st.lists(calls, max_size=3),
    function_call=st.none() | functions,
)
choices = st.builds(
    ChunkChoice,
    index=st.sampled_from([0, 0, 0, 1]),
    delta=deltas,
    finish_reason=st.sampled_from([None, None, "stop", "length", "tool_calls", "content_filter"]),
    logprobs=st.none()
    | st.just({"content": [{"token": "a", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}),
)
chunk_lists = st.lists(
    st.builds(
        ChatChunk,
        choices=st.lists(choices, max_size=2),
        usage=st.none() | st.just(Usage(prompt_tokens=1, completion_tokens=2)),
    ),
    max_size=12,
)


def empty() -> dict[str, Any]:
    params = ResponsesParams(input="x")
    return response_object(params, response_id="resp_1", model="m", status="in_progress")


def events_of(chunks: list[ChatChunk]) -> tuple[list[dict[str, Any]], ResponseBuilder]:
    """The events as they leave: what a later chunk changes does not change them."""
    builder = ResponseBuilder(empty())
    events: list[dict[str, Any]] = []
    for chunk in chunks:
        events += copy.deepcopy(builder.add([chunk]))
    events += copy.deepcopy(builder.finish())
    for number, event in enumerate(events):
        event["sequence_number"] = number
    return events, builder


@settings(max_examples=400, deadline=None)
@given(chunk_lists)
def test_any_chunks_become_events_the_sdk_can_add_up(chunks: list[ChatChunk]) -> None:
    events, builder = events_of(chunks)
    state: Any = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(event_type.validate_python(event))
    final = builder.response
    assert events[-1]["response"] == final
    open_items: dict[int, str] = {}
    for event in events:
        at: Any = event.get("output_index")
        if event["type"] == "response.output_item.added":
            assert at == len(open_items)
            open_items[at] = event["item"]["id"]
        elif event["type"] == "response.output_item.done":
            assert final["output"][at] == event["item"]
            assert event["item"]["id"] == open_items[at]
        elif at is not None:
            assert event["item_id"] == open_items[at]
    done = [each["output_index"] for each in events if each["type"] == "response.output_item.done"]
    assert sorted(done) == sorted(open_items) == list(range(len(final["output"])))


@settings(max_examples=300, deadline=None)
@given(chunk_lists)
def test_the_deltas_add_up_to_what_the_response_says(chunks: list[ChatChunk]) -> None:
    events, builder = events_of(chunks)
    told: dict[str, str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            name = event["type"].removeprefix("response.")
            told[name] = told.get(name, "") + event["delta"]
    mine = [choice.delta for chunk in chunks for choice in chunk.choices if choice.index == 0]
    assert told.get("output_text.delta", "") == "".join(each.content or "" for each in mine)
    assert told.get("refusal.delta", "") == "".join(each.refusal or "" for each in mine)
    assert told.get("reasoning_summary_text.delta", "") == "".join(
        each.reasoning_content or each.reasoning or "" for each in mine
    )
    arguments: dict[Any, str] = {}
    for delta in mine:
        for call in delta.tool_calls or ():
            arguments.setdefault(call.index, "")
            arguments[call.index] += (call.function.arguments if call.function else None) or ""
        if delta.function_call is not None:
            arguments.setdefault(-1, "")
            arguments[-1] += delta.function_call.arguments or ""
    items = [item for item in builder.response["output"] if item["type"] == "function_call"]
    assert sorted(item["arguments"] for item in items) == sorted(arguments.values())


@settings(max_examples=100, deadline=None)
@given(chunk_lists)
def test_a_response_that_breaks_off_keeps_what_was_said(chunks: list[ChatChunk]) -> None:
    builder = ResponseBuilder(empty())
    builder.add(chunks)
    broken = builder.break_off()
    assert broken["status"] == "in_progress"  # its caller says how it failed
    said = "".join(
        part["text"]
        for item in broken["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    )
    assert said == "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == 0
    )
    orjson.dumps(broken)


STREAM = b": hello\r\n\r\n" + b"".join(typed_events(response("Grüße ✓"))).replace(b"\n", b"\r\n")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_of_a_native_stream_gives_the_same_events(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    reader = ResponsesReader(ENDPOINT)
    wire = b""
    finish = usage = None
    for start, end in zip(places, places[1:], strict=False):
        batch = reader.feed(STREAM[start:end])
        if batch is not None:
            wire += batch.wire or b""
            for chunk in batch.chunks:
                usage = chunk.usage or usage
                finish = next((c.finish_reason for c in chunk.choices if c.finish_reason), finish)
    assert reader.done
    assert wire == b"".join(typed_events(response("Grüße ✓")))
    assert finish == "stop"
    assert usage is not None
    assert usage.prompt_tokens == 9


# --- what callers send --------------------------------------------------------------------------

junk: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
words = st.sampled_from(
    [
        *("message", "function_call", "function_call_output", "reasoning", "item_reference"),
        *("input_text", "input_image", "input_file", "input_audio", "output_text", "refusal"),
        *("user", "assistant", "system", "developer", "call_1", "call_2", "web_search_call"),
        *("function", "allowed_tools", "json_schema", "json_object", "text", "auto", "required"),
    ]
)
parts = st.dictionaries(
    st.sampled_from(["type", "text", "image_url", "file_id", "file_data", "file_url", "refusal"]),
    words | junk,
    max_size=4,
)
fields = [
    *("type", "role", "content", "call_id", "name", "arguments", "output", "id"),
    *("encrypted_content", "summary", "status"),
]
items = st.dictionaries(
    st.sampled_from(fields), words | junk | st.lists(parts, max_size=2), max_size=6
)
tools = st.dictionaries(
    st.sampled_from(["type", "name", "parameters", "strict", "description"]), words | junk
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "input": st.lists(items, max_size=4) | words | junk,
        "tools": st.lists(tools, max_size=2) | junk,
        "tool_choice": words | tools | junk,
        "text": st.dictionaries(st.sampled_from(["format", "verbosity"]), tools | junk) | junk,
        "reasoning": st.dictionaries(st.sampled_from(["effort", "summary"]), words | junk) | junk,
        "conversation": words | junk | st.fixed_dictionaries({"id": words | junk}),
        "instructions": words | junk,
        "include": st.lists(words) | junk,
        "stream": st.booleans() | junk,
        "max_output_tokens": junk,
        "prompt": junk,
        "metadata": junk,
    },
)


@settings(max_examples=1500, deadline=None)
@given(bodies)
def test_any_body_is_prepared_or_refused_with_a_reason(body: dict[str, Any]) -> None:
    try:
        asked = parse_responses_request(json.dumps(body).encode())
        own = read_input(asked.params.input)
        prepared = prepare(asked, Context(own))
    except GatewayError as error:
        assert error.http_status == 400
        assert error.message
        return
    orjson.dumps(with_ids(own))
    orjson.dumps(response_object(asked.params, response_id="resp_1", model="m", status="completed"))
    if prepared.request.native_only is None:
        check_turns(prepared.request.body["messages"])


@settings(max_examples=200, deadline=None)
@given(st.lists(items, max_size=8), st.integers(1, 4), st.sampled_from(["asc", "desc"]))
def test_any_items_are_listed_once_each_whatever_the_page(
    sent: list[dict[str, Any]], limit: int, order: str
) -> None:
    try:
        stored = with_ids(read_input(sent))
    except GatewayError:
        return
    listed: list[Any] = []
    query = {"limit": str(limit), "order": order}
    while True:
        page = page_of(stored, QueryDict(urlencode(query)))
        listed += page["data"]
        if not page["has_more"]:
            break
        query["after"] = page["last_id"]
    assert listed == (stored if order == "asc" else stored[::-1])


def check_turns(messages: list[dict[str, Any]]) -> None:
    """Every call is answered right behind its turn, and nothing else is."""
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            assert message["tool_call_id"] in waiting
            waiting.remove(message["tool_call_id"])
        else:
            assert waiting == []
            waiting = [call["id"] for call in message.get("tool_calls") or ()]
    assert waiting == []


conversations = st.lists(
    st.one_of(
        st.builds(
            lambda role: {"type": "message", "role": role, "content": "x"},
            st.sampled_from(["user", "assistant", "system"]),
        ),
        st.builds(
            lambda at: {
                "type": "function_call",
                "call_id": f"c{at}",
                "name": "f",
                "arguments": "{}",
            },
            st.integers(0, 3),
        ),
        st.builds(
            lambda at: {"type": "function_call_output", "call_id": f"c{at}", "output": "r"},
            st.integers(0, 3),
        ),
        st.just({"type": "reasoning", "id": "rs_1", "summary": []}),
    ),
    max_size=10,
)


@settings(max_examples=500, deadline=None)
@given(conversations)
def test_any_order_of_calls_and_results_is_put_right_or_refused(
    history: list[dict[str, Any]],
) -> None:
    try:
        messages = messages_from(history, [f"input[{at}]" for at in range(len(history))])
    except Untranslatable as error:
        assert str(error.param).startswith("input[")
        return
    check_turns(messages)
    called = [item["call_id"] for item in history if item["type"] == "function_call"]
    told = [call["id"] for each in messages for call in each.get("tool_calls") or ()]
    assert told == called
    said = sum(item["type"] == "message" for item in history)
    turns_without_text = sum(each.get("content") is None for each in messages)
    assert sum(each["role"] != "tool" for each in messages) - turns_without_text == said
    msgspec.json.encode(messages)
