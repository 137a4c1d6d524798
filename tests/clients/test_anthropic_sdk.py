"""Anthropic's own Python client, against upstreams that speak OpenAI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from tests.gateway import KEY, Gateway, wait_until
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Script,
    Upstream,
    chunk,
    chunks,
    completion,
    event,
    silence,
    streaming,
    usage_chunk,
    whole,
)

pytestmark = pytest.mark.once

MODEL = "scripted/gpt-4o-mini"
HELLO: list[MessageParam] = [{"role": "user", "content": "Say hello."}]
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


class City(BaseModel):
    name: str
    population: int


@pytest.fixture
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(gateway: Gateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield client


def call(city: str, *, at: int = 0, id_: str = "call_1") -> dict[str, Any]:
    arguments = json.dumps({"city": city})
    function = {"name": "get_weather", "arguments": arguments}
    return {"index": at, "id": id_, "type": "function", "function": function}


def piece_of_call(at: int, arguments: str) -> dict[str, Any]:
    return {"index": at, "function": {"arguments": arguments}}


def start_of_call(at: int, id_: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": ""}
    return {"index": at, "id": id_, "type": "function", "function": function}


# --- whole answers ------------------------------------------------------------------------------


def test_create_returns_the_message_the_usage_and_a_request_id(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Hello there."))
    message = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
    assert message.id.startswith("msg_")
    assert (message.type, message.role) == ("message", "assistant")
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Hello there."}
    ]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)
    assert message.model == "gpt-4o-mini-2024-07-18"
    assert message._request_id
    assert message._request_id.startswith("req_")


def test_the_upstream_is_asked_in_its_own_words(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion())
    client.messages.create(
        model="smart",
        max_tokens=50,
        system="Be brief.",
        messages=HELLO,
        stop_sequences=["END"],
        metadata={"user_id": "u1"},
        extra_body={"temperature": 0.5, "top_p": 0.9},
    )
    (asked,) = upstream.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer sk-upstream-0123456789"
    assert "x-api-key" not in asked.headers
    assert asked.json() == {
        "model": "gpt-4o-mini",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Say hello."},
        ],
        "max_tokens": 50,
        "stop": ["END"],
        "user": "u1",
        "temperature": 0.5,
        "top_p": 0.9,
    }


async def test_the_async_client_gets_the_same_answer(
    async_client: anthropic.AsyncAnthropic, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("Hello there."))
    message = await async_client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello there."


def test_an_auth_token_is_a_credential_too(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Hello there."))
    with anthropic.Anthropic(base_url=gateway.url, auth_token=KEY, max_retries=0) as client:
        message = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
    assert message.stop_reason == "end_turn"


def test_tool_calls_come_as_blocks(client: anthropic.Anthropic, upstream: Upstream) -> None:
    calls = [call("Paris"), call("Rome", at=1, id_="call_2")]
    upstream.script = whole(200, completion("Let me look.", tool_calls=calls))
    message = client.messages.create(
        model=MODEL, max_tokens=50, messages=HELLO, tools=[WEATHER], tool_choice={"type": "any"}
    )
    assert message.stop_reason == "tool_use"
    assert [block.to_dict() for block in message.content] == [
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_2", "name": "get_weather", "input": {"city": "Rome"}},
    ]
    asked = upstream.asked[0].json()
    assert asked["tool_choice"] == "required"
    assert asked["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather of a city.",
                "parameters": WEATHER["input_schema"],
            },
        }
    ]


def test_calls_that_end_with_stop_are_tool_use_all_the_same(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    answer = completion(None, tool_calls=[call("Paris")])
    answer["choices"][0]["finish_reason"] = "stop"
    upstream.script = whole(200, answer)
    message = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO, tools=[WEATHER])
    assert message.stop_reason == "tool_use"


def test_reasoning_comes_as_a_thinking_block(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("4", reasoning_content="2 and 2"))
    message = client.messages.create(
        model=MODEL,
        max_tokens=12_000,
        messages=HELLO,
        thinking={"type": "enabled", "budget_tokens": 10_000},
    )
    assert [block.to_dict() for block in message.content] == [
        {"type": "thinking", "thinking": "2 and 2", "signature": ""},
        {"type": "text", "text": "4"},
    ]
    assert upstream.asked[0].json()["reasoning_effort"] == "medium"


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")],
)
def test_stop_reasons_are_anthropics(
    client: anthropic.Anthropic, upstream: Upstream, finish: str, stop: str
) -> None:
    answer = completion("Hello")
    answer["choices"][0]["finish_reason"] = finish
    upstream.script = whole(200, answer)
    message = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
    assert message.stop_reason == stop


def test_a_stop_sequence_is_told_where_the_upstream_tells_it(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    answer = completion("Hello")
    answer["choices"][0]["stop_reason"] = "END"
    upstream.script = whole(200, answer)
    message = client.messages.create(
        model=MODEL, max_tokens=50, messages=HELLO, stop_sequences=["END"]
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_cached_tokens_are_not_counted_as_input(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    answer = completion("Hello")
    answer["usage"] = {
        "prompt_tokens": 100,
        "completion_tokens": 7,
        "total_tokens": 107,
        "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    upstream.script = whole(200, answer)
    usage = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO).usage
    assert (usage.input_tokens, usage.output_tokens) == (10, 7)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (60, 30)
    assert usage.output_tokens_details is not None
    assert usage.output_tokens_details.thinking_tokens == 5


def test_an_answer_without_usage_gets_the_ledgers_estimate(
    client: anthropic.Anthropic, gateway: Gateway, upstream: Upstream
) -> None:
    answer = completion("Hello there, you.")
    del answer["usage"]
    upstream.script = whole(200, answer)
    message = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
    wait_until(lambda: any(r.request_id == message._request_id for r in gateway.rows()), seconds=20)
    (row,) = [row for row in gateway.rows() if row.request_id == message._request_id]
    assert (message.usage.input_tokens, message.usage.output_tokens) == (
        row.tokens_input,
        row.tokens_output,
    )
    assert row.estimated


def test_parse_returns_an_object(client: anthropic.Anthropic, upstream: Upstream) -> None:
    upstream.script = whole(200, completion('{"name": "Paris", "population": 2100000}'))
    message = client.messages.parse(model=MODEL, max_tokens=50, messages=HELLO, output_format=City)
    assert message.parsed_output == City(name="Paris", population=2_100_000)
    form = upstream.asked[0].json()["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    assert set(form["json_schema"]["schema"]["properties"]) == {"name", "population"}


def test_what_cannot_be_passed_on_is_named(client: anthropic.Anthropic, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())
    raw = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=50, messages=HELLO, extra_body={"top_k": 5, "speed": "fast"}
    )
    assert raw.headers["x-gateway-dropped-params"] == "speed, top_k"
    assert not {"top_k", "speed"} & upstream.asked[0].json().keys()


# --- streams ------------------------------------------------------------------------------------


def test_create_with_stream_has_the_events_in_their_order(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hello", " there", "."))
    with client.messages.create(model=MODEL, max_tokens=50, messages=HELLO, stream=True) as stream:
        assert [event.type for event in stream] == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]


def test_the_stream_helper_ends_with_the_message(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hello", " there", "."))
    with client.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == "Hello there."
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (9, 3)
    assert upstream.asked[0].json()["stream_options"] == {"include_usage": True}


async def test_the_async_stream_helper_ends_with_the_message(
    async_client: anthropic.AsyncAnthropic, upstream: Upstream
) -> None:
    upstream.script = streaming(chunks("Hello", " there", "."))
    async with async_client.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
        assert await stream.get_final_text() == "Hello there."


def test_streamed_tool_calls_come_by_turns_and_are_put_in_order(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    upstream.script = streaming(
        [
            chunk(role="assistant", content=""),
            chunk(reasoning_content="Two "),
            chunk(reasoning_content="cities."),
            chunk(content="Let me look."),
            chunk(tool_calls=[start_of_call(0, "call_1"), start_of_call(1, "call_2")]),
            chunk(tool_calls=[piece_of_call(0, '{"city"')]),
            chunk(tool_calls=[piece_of_call(1, '{"city":')]),
            chunk(tool_calls=[piece_of_call(0, ': "Paris"}')]),
            chunk(tool_calls=[piece_of_call(1, '"Rome"}')]),
            chunk("tool_calls"),
            usage_chunk(9, 20),
            DONE,
        ]
    )
    with client.messages.stream(
        model=MODEL, max_tokens=50, messages=HELLO, tools=[WEATHER]
    ) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    assert [block.to_dict() for block in message.content] == [
        {"type": "thinking", "thinking": "Two cities.", "signature": ""},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_2", "name": "get_weather", "input": {"city": "Rome"}},
    ]


def test_pieces_of_arguments_are_passed_on_as_they_come(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    pieces = ['{"ci', 'ty": "P', 'aris"}']
    upstream.script = streaming(
        [
            chunk(tool_calls=[start_of_call(0, "call_1")]),
            *(chunk(tool_calls=[piece_of_call(0, piece)]) for piece in pieces),
            chunk("tool_calls"),
            DONE,
        ]
    )
    with client.messages.create(
        model=MODEL, max_tokens=50, messages=HELLO, stream=True, tools=[WEATHER]
    ) as stream:
        got = [
            event.delta.partial_json
            for event in stream
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        ]
    assert got == pieces


def test_signed_thoughts_keep_their_signatures(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    blocks = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "eHl6"},
    ]
    upstream.script = streaming(
        [
            chunk(reasoning_content="Hm."),
            chunk(thinking_blocks=blocks[:1]),
            chunk(thinking_blocks=blocks[1:]),
            chunk(content="4"),
            chunk("stop"),
            DONE,
        ]
    )
    with client.messages.stream(model=MODEL, max_tokens=50, messages=HELLO) as stream:
        message = stream.get_final_message()
    assert [block.to_dict() for block in message.content] == [
        *blocks,
        {"type": "text", "text": "4"},
    ]


def cut_off(*pieces: bytes) -> Script:
    async def script(asked: Asked, peer: Peer) -> None:
        peer.begin()
        for piece in pieces:
            peer.piece(piece)
        await asyncio.sleep(0.1)
        peer.hang_up()

    return script


@pytest.mark.parametrize(
    "script",
    [
        cut_off(chunk(role="assistant", content=""), chunk(content="Hel")),
        streaming(
            [chunk(content="Hel"), event({"error": {"message": "It broke.", "code": 500}})],
            pause_s=0.1,
        ),
        streaming(
            [
                chunk(content="Hel"),
                chunk(tool_calls=[start_of_call(0, "c")]),
                chunk(tool_calls=[piece_of_call(0, '{"city": "Pa')]),
                chunk("tool_calls"),
                DONE,
            ],
            pause_s=0.05,
        ),
    ],
    ids=["cut off", "an error in band", "a tool call without its end"],
)
def test_a_stream_that_fails_in_the_middle_ends_with_an_error(
    client: anthropic.Anthropic, upstream: Upstream, script: Script
) -> None:
    upstream.script = script
    seen = []
    with (
        pytest.raises(anthropic.APIStatusError) as raised,
        client.messages.create(
            model=MODEL, max_tokens=50, messages=HELLO, stream=True, tools=[WEATHER]
        ) as stream,
    ):
        for each in stream:
            seen.append(each.type)
    assert "message_start" in seen
    assert not {"message_stop", "message_delta"} & set(seen)
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["type"] == "error"
    assert raised.value.body["error"]["type"] == "api_error"
    assert raised.value.body["request_id"].startswith("req_")


def test_a_caller_who_leaves_a_stream_cancels_the_upstream(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    async def endless(asked: Asked, peer: Peer) -> None:
        peer.begin()
        for _ in range(600):
            peer.piece(chunk(content="word "))
            await asyncio.sleep(0.05)

    upstream.script = endless
    with client.messages.create(model=MODEL, max_tokens=50, messages=HELLO, stream=True) as stream:
        next(iter(stream))
    wait_until(lambda: len(upstream.left) == 1, seconds=2)


# --- errors -------------------------------------------------------------------------------------


def error(status: int, **headers: str) -> Script:
    body = {"error": {"message": "It broke.", "type": "x", "param": None, "code": None}}
    return whole(status, body, **headers)


@pytest.mark.parametrize(
    ("status", "kind", "type_", "told"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error", 400),
        (401, anthropic.InternalServerError, "api_error", 502),
        (404, anthropic.NotFoundError, "not_found_error", 404),
        (413, anthropic.RequestTooLargeError, "request_too_large", 413),
        (422, anthropic.UnprocessableEntityError, "invalid_request_error", 422),
        (429, anthropic.RateLimitError, "rate_limit_error", 429),
        (500, anthropic.InternalServerError, "api_error", 502),
        (503, anthropic.InternalServerError, "overloaded_error", 503),
        (504, anthropic.DeadlineExceededError, "timeout_error", 504),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_error_is_told_in_anthropics_envelope(
    client: anthropic.Anthropic,
    upstream: Upstream,
    status: int,
    kind: type[anthropic.APIStatusError],
    type_: str,
    told: int,
    stream: bool,
) -> None:
    upstream.script = error(status, retry_after="7")
    with pytest.raises(kind) as raised:
        client.messages.create(model=MODEL, max_tokens=50, messages=HELLO, stream=stream)
    assert raised.value.status_code == told
    body: Any = raised.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == type_
    assert body["request_id"] == raised.value.request_id
    if status in (429, 503):
        assert raised.value.response.headers["retry-after"] == "7"


def test_a_wrong_key_is_an_authentication_error(gateway: Gateway, upstream: Upstream) -> None:
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="gw-wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as raised,
    ):
        client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
    body: Any = raised.value.body
    assert body["error"]["type"] == "authentication_error"


def test_an_unknown_model_is_not_found(client: anthropic.Anthropic, upstream: Upstream) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.messages.create(model="nobody/has-this", max_tokens=50, messages=HELLO)
    body: Any = raised.value.body
    assert body["error"]["type"] == "not_found_error"
    assert upstream.asked == []


def test_a_tool_that_anthropic_runs_is_refused_where_the_upstream_is_another(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]\.type.*web_search"):
        client.messages.create(
            model=MODEL,
            max_tokens=50,
            messages=HELLO,
            tools=[{"type": "web_search_20250305", "name": "web_search"}],
        )
    assert upstream.asked == []


def test_an_upstream_that_never_answers_leaves_with_its_caller(
    gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = silence
    with (
        anthropic.Anthropic(
            base_url=gateway.url, api_key=KEY, max_retries=0, timeout=0.5
        ) as client,
        pytest.raises(anthropic.APITimeoutError),
    ):
        client.messages.create(model=MODEL, max_tokens=50, messages=HELLO)
    wait_until(lambda: len(upstream.left) == 1, seconds=2)


# --- the ledger ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_ledger_knows_the_wire(
    client: anthropic.Anthropic, gateway: Gateway, upstream: Upstream, stream: bool
) -> None:
    upstream.script = streaming(chunks("Hello")) if stream else whole(200, completion())
    answer = client.messages.with_raw_response.create(
        model="smart", max_tokens=50, messages=HELLO, stream=stream
    )
    answer.read()
    row = row_of(gateway, answer.headers["request-id"])
    assert (row["wire"], row["status"], row["stream"]) == ("anthropic", "success", stream)
    assert (row["model"], row["finish_reason"]) == ("smart", "stop")
    assert row["tokens_input"] == 9
    assert row["estimated"] is False


def test_a_call_that_cannot_be_read_is_a_failure_in_the_ledger(
    client: anthropic.Anthropic, gateway: Gateway, upstream: Upstream
) -> None:
    nameless = {"index": 0, "id": "call_1", "function": {"arguments": "{}"}}
    upstream.script = streaming([chunk(content="Hm."), chunk(tool_calls=[nameless])], pause_s=0.1)
    answer = client.messages.with_raw_response.create(
        model=MODEL, max_tokens=50, messages=HELLO, stream=True
    )
    answer.read()
    assert row_of(gateway, answer.headers["request-id"])["status"] == "error"


def row_of(gateway: Gateway, request_id: str) -> dict[str, Any]:
    wait_until(lambda: any(row.request_id == request_id for row in gateway.rows()), seconds=20)
    path = f"/v1/usage?request_id={request_id}"
    (row,) = gateway.call("GET", path, None, {"x-api-key": KEY}).json()["data"]
    found: dict[str, Any] = row
    return found


# --- counting, and a loop -----------------------------------------------------------------------


def test_tokens_are_estimated_where_the_upstream_counts_none(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    raw = client.messages.with_raw_response.count_tokens(
        model=MODEL, system="Be brief.", messages=HELLO, tools=[WEATHER]
    )
    assert raw.headers["x-gateway-estimated"] == "true"
    assert raw.headers["request-id"].startswith("req_")
    assert 20 <= raw.parse().input_tokens <= 80
    assert upstream.asked == []


def test_counting_is_refused_for_the_same_reasons(
    client: anthropic.Anthropic, upstream: Upstream
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.count_tokens(model=MODEL, messages=[])
    with pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model="nobody/has-this", messages=HELLO)


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_loops_over_three_turns_of_tools(
    client: anthropic.Anthropic, upstream: Upstream, stream: bool
) -> None:
    upstream.script = weather_model
    messages: list[MessageParam] = [{"role": "user", "content": "Weather in Paris, then Rome?"}]
    for _ in range(5):
        request: Any = {"model": MODEL, "max_tokens": 500, "messages": messages, "tools": [WEATHER]}
        if stream:
            with client.messages.stream(**request) as open_stream:
                message = open_stream.get_final_message()
        else:
            message = client.messages.create(**request)
        messages.append({"role": "assistant", "content": message.content})
        if message.stop_reason != "tool_use":
            break
        messages.append(
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": block.id,
                        "content": [{"type": "text", "text": f"sunny in {block.input['city']}"}],
                    }
                    for block in message.content
                    if block.type == "tool_use"
                ],
            }
        )
    assert len(upstream.asked) == 3
    assert message.content[-1].type == "text"
    assert message.content[-1].text == "sunny in Paris; sunny in Rome"
    last = upstream.asked[-1].json()["messages"]
    assert [each["role"] for each in last] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    assert [each["reasoning_content"] for each in last if each["role"] == "assistant"] == [
        "Paris is next.",
        "Rome is next.",
    ]
    assert last[1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'
    assert [each["tool_call_id"] for each in last if each["role"] == "tool"] == [
        "call_Paris",
        "call_Rome",
    ]


async def weather_model(asked: Asked, peer: Peer) -> None:
    """Asks for one city after the other, then says what it was told."""
    told = [each["content"] for each in asked.json()["messages"] if each["role"] == "tool"]
    if len(told) == 2:
        await say(asked, peer, completion("; ".join(told)))
        return
    city = ("Paris", "Rome")[len(told)]
    answer = completion(
        None, reasoning_content=f"{city} is next.", tool_calls=[call(city, id_=f"call_{city}")]
    )
    await say(asked, peer, answer)


async def say(asked: Asked, peer: Peer, answer: dict[str, Any]) -> None:
    if not asked.json().get("stream"):
        peer.answer(200, json.dumps(answer).encode())
        return
    message, finish = answer["choices"][0]["message"], answer["choices"][0]["finish_reason"]
    peer.begin()
    if thought := message.get("reasoning_content"):
        peer.piece(chunk(reasoning_content=thought))
    if message["content"]:
        peer.piece(chunk(content=message["content"]))
    if message.get("tool_calls"):
        peer.piece(chunk(tool_calls=message["tool_calls"]))
    for piece in (chunk(finish), usage_chunk(9, 3), DONE):
        peer.piece(piece)
    peer.end()
