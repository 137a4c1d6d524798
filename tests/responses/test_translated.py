"""The openai SDK's Responses API over an upstream that knows chat completions only."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel

from tests.gateway import Gateway, wait_until
from tests.responses.calls import MODEL, call, check_numbers, create, in_turn, read_events
from tests.upstream import (
    DONE,
    Asked,
    Peer,
    Upstream,
    chunk,
    chunks,
    completion,
    streaming,
    usage_chunk,
    whole,
)

pytestmark = pytest.mark.once

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": None,
}


def tool_call(city: str, call_id: str) -> dict[str, Any]:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
    }


class City(BaseModel):
    name: str
    population: int


# --- whole answers ------------------------------------------------------------------------------


def test_create_returns_the_text_and_the_usage(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Hello there."))
    answer = client.responses.create(model=MODEL, input="Say hello.", instructions="Be brief.")
    assert answer.output_text == "Hello there."
    assert answer.status == "completed"
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (9, 3)
    assert answer.usage.input_tokens_details.cached_tokens == 0
    assert answer.id.startswith("resp_")
    (asked,) = upstream.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.json()["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hello."},
    ]


def test_every_field_chat_has_a_word_for_goes_upstream(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("{}"))
    client.responses.create(
        model=MODEL,
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "Look:"},
                    {
                        "type": "input_image",
                        "image_url": "data:image/png;base64,eA==",
                        "detail": "low",
                    },
                    {
                        "type": "input_file",
                        "file_data": "data:application/pdf;base64,eA==",
                        "filename": "a.pdf",
                    },
                ],
            }
        ],
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        text={
            "format": {
                "type": "json_schema",
                "name": "x",
                "schema": {"type": "object"},
                "strict": True,
            },
            "verbosity": "low",
        },
        reasoning={"effort": "low"},
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        top_logprobs=2,
        user="u",
        service_tier="default",
        metadata={"a": "b"},
    )
    asked = upstream.asked[0].json()
    content = asked.pop("messages")[0]["content"]
    assert content[1] == {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64,eA==", "detail": "low"},
    }
    assert content[2] == {
        "type": "file",
        "file": {"file_data": "data:application/pdf;base64,eA==", "filename": "a.pdf"},
    }
    function = {name: value for name, value in WEATHER.items() if name not in ("type", "strict")}
    assert asked == {
        "model": "gpt-4o-mini",
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "reasoning_effort": "low",
        "max_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "logprobs": True,
        "top_logprobs": 2,
        "user": "u",
        "service_tier": "default",
    }


def test_what_chat_has_no_word_for_is_told_in_a_header(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())
    body = {"model": MODEL, "input": "x", "truncation": "auto", "max_tool_calls": 2, "odd": 1}
    answered = call(served, "POST", "", body)
    assert answered.headers["x-gateway-dropped-params"] == "max_tool_calls, odd, truncation"


def test_tool_calls_become_items_that_keep_their_call_ids(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    calls = [tool_call("Paris", "call_1"), tool_call("Rome", "call_2")]
    upstream.script = whole(200, completion(None, tool_calls=calls))
    answer = client.responses.create(model=MODEL, input="Weather?", tools=[WEATHER])
    found = [each for each in answer.output if isinstance(each, ResponseFunctionToolCall)]
    assert [(each.call_id, each.arguments) for each in found] == [
        ("call_1", '{"city": "Paris"}'),
        ("call_2", '{"city": "Rome"}'),
    ]
    assert len(answer.output) == 2


def test_reasoning_becomes_an_item_with_a_summary(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion("4", reasoning_content="2 and 2"))
    answer = client.responses.create(model=MODEL, input="2+2?")
    first, second = answer.output
    assert isinstance(first, ResponseReasoningItem)
    assert first.summary[0].text == "2 and 2"
    assert second.type == "message"


def test_a_cut_off_answer_is_incomplete(client: openai.OpenAI, upstream: Upstream) -> None:
    body = completion("Hello th")
    body["choices"][0]["finish_reason"] = "length"
    upstream.script = whole(200, body)
    answer = client.responses.create(model=MODEL, input="x", max_output_tokens=16)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_parse_returns_an_object(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion('{"name": "Paris", "population": 2100000}'))
    answer = client.responses.parse(model=MODEL, input="Paris?", text_format=City)
    assert answer.output_parsed == City(name="Paris", population=2_100_000)
    assert upstream.asked[0].json()["response_format"]["json_schema"]["name"] == "City"


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_tells_typed_events_in_order(served: Gateway, upstream: Upstream) -> None:
    upstream.script = streaming(chunks("Hello", " there"))
    answered = call(served, "POST", "", {"model": MODEL, "input": "x", "stream": True})
    events = read_events(answered.body)
    check_numbers(events)
    assert [each["type"].removeprefix("response.") for each in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[-1]["response"]["usage"]["output_tokens"] == 2


def test_the_stream_helper_returns_the_whole_response(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    def function(**fields: Any) -> Any:
        return fields

    upstream.script = streaming(
        [
            chunk(role="assistant", content=""),
            chunk(reasoning_content="Let me "),
            chunk(reasoning_content="see."),
            chunk(content="One moment."),
            chunk(
                tool_calls=[
                    {
                        "index": 0,
                        "id": "c1",
                        "type": "function",
                        "function": function(name="get_weather", arguments=""),
                    }
                ]
            ),
            chunk(tool_calls=[{"index": 0, "function": function(arguments='{"city": ')}]),
            chunk(
                tool_calls=[
                    {
                        "index": 1,
                        "id": "c2",
                        "type": "function",
                        "function": function(name="get_weather", arguments='{"city": "Rome"}'),
                    }
                ]
            ),
            chunk(tool_calls=[{"index": 0, "function": function(arguments='"Paris"}')}]),
            chunk("tool_calls"),
            usage_chunk(20, 10),
            DONE,
        ]
    )
    with client.responses.stream(model=MODEL, input="Weather?", tools=[WEATHER]) as stream:
        seen = [event.type for event in stream]
        final = stream.get_final_response()
    assert [each.type for each in final.output] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    arguments = [each.arguments for each in final.output if each.type == "function_call"]
    assert arguments == ['{"city": "Paris"}', '{"city": "Rome"}']
    assert final.output_text == "One moment."
    assert final.usage is not None
    assert final.usage.total_tokens == 30
    assert "response.reasoning_summary_text.delta" in seen


def test_a_refusal_is_a_refusal(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = streaming([chunk(refusal="I "), chunk(refusal="won't."), chunk("stop"), DONE])
    with client.responses.stream(model=MODEL, input="x") as stream:
        final = stream.get_final_response()
    (message,) = final.output
    assert message.type == "message"
    (part,) = message.content
    assert part.type == "refusal"
    assert part.refusal == "I won't."


def test_a_failure_before_the_first_chunk_has_its_status(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(429, {"error": {"message": "slow down"}}, retry_after="7")
    answered = call(served, "POST", "", {"model": MODEL, "input": "x", "stream": True})
    assert (answered.status, answered.headers["retry-after"]) == (429, "7")


async def breaking_off(asked: Asked, peer: Peer) -> None:
    peer.begin()
    peer.piece(chunk(content="Hello"))
    peer.hang_up()


def test_a_stream_that_breaks_off_has_failed_and_is_no_completed_one(
    served: Gateway, upstream: Upstream
) -> None:
    upstream.script = breaking_off
    answered = call(
        served, "POST", "", {"model": MODEL, "input": "x", "stream": True}, x_request_id="broken"
    )
    events = read_events(answered.body)
    check_numbers(events)
    assert events[-1]["type"] == "response.failed"
    failed = events[-1]["response"]
    assert failed["error"]["code"] == "server_error"
    assert failed["output"][0]["content"][0]["text"] == "Hello"
    assert "response.completed" not in {each["type"] for each in events}
    found = call(served, "GET", f"/{failed['id']}").json()
    assert found["status"] == "failed"
    wait_until(lambda: "broken" in {row.request_id for row in served.rows()}, seconds=10)
    (row,) = [row for row in served.rows() if row.request_id == "broken"]
    assert row.status == "error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_provider_of_another_kind_answers_too(served: Gateway, stream: bool) -> None:
    body = {"model": "demo/echo", "input": "Say it again.", "stream": stream}
    answered = call(served, "POST", "", body)
    assert answered.status == 200
    whole = read_events(answered.body)[-1]["response"] if stream else answered.json()
    assert whole["output"][0]["content"][0]["text"] == "Say it again."
    assert whole["usage"]["output_tokens"] > 0


# --- what follows on ----------------------------------------------------------------------------


def test_previous_response_id_goes_on_from_the_whole_chain_without_old_instructions(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = in_turn(
        whole(200, completion("I am one.")), whole(200, completion("I am two."))
    )
    one = client.responses.create(model=MODEL, input="First.", instructions="Old.")
    two = client.responses.create(model=MODEL, input="Second.", previous_response_id=one.id)
    client.responses.create(
        model=MODEL, input="Third.", previous_response_id=two.id, instructions="New."
    )
    assert two.previous_response_id == one.id
    assert upstream.asked[-1].json()["messages"] == [
        {"role": "system", "content": "New."},
        {"role": "user", "content": "First."},
        {"role": "assistant", "content": "I am one."},
        {"role": "user", "content": "Second."},
        {"role": "assistant", "content": "I am two."},
        {"role": "user", "content": "Third."},
    ]


def test_two_may_go_on_from_one(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Yes."))
    one = client.responses.create(model=MODEL, input="First.")
    client.responses.create(model=MODEL, input="Left.", previous_response_id=one.id)
    client.responses.create(model=MODEL, input="Right.", previous_response_id=one.id)
    said = [each["content"] for each in upstream.asked[-1].json()["messages"]]
    assert said == ["First.", "Yes.", "Right."]


def test_a_tool_loop_of_three_turns(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = in_turn(
        whole(200, completion(None, tool_calls=[tool_call("Paris", "call_1")])),
        whole(200, completion(None, tool_calls=[tool_call("Rome", "call_2")])),
        whole(200, completion("Sun and rain.")),
    )
    answer = client.responses.create(model=MODEL, input="Paris and Rome?", tools=[WEATHER])
    for weather in ("sun", "rain"):
        (item,) = answer.output
        assert isinstance(item, ResponseFunctionToolCall)
        answer = client.responses.create(
            model=MODEL,
            previous_response_id=answer.id,
            tools=[WEATHER],
            input=[{"type": "function_call_output", "call_id": item.call_id, "output": weather}],
        )
    assert answer.output_text == "Sun and rain."
    messages = upstream.asked[-1].json()["messages"]
    assert [each["role"] for each in messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
    ]
    assert messages[2] == {"role": "tool", "tool_call_id": "call_1", "content": "sun"}


def test_a_tool_loop_whose_items_the_caller_keeps(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    thoughtful = completion(
        None, tool_calls=[tool_call("Paris", "call_1")], reasoning_content="Paris first."
    )
    upstream.script = in_turn(whole(200, thoughtful), whole(200, completion("Sun.")))
    items: Any = [{"role": "user", "content": "Paris?"}]
    answer = client.responses.create(model=MODEL, input=items, tools=[WEATHER], store=False)
    items += [each.model_dump() for each in answer.output]
    items.append({"type": "function_call_output", "call_id": "call_1", "output": "sun"})
    client.responses.create(model=MODEL, input=items, tools=[WEATHER], store=False)
    messages = upstream.asked[-1].json()["messages"]
    assert messages[1]["reasoning_content"] == "Paris first."
    assert messages[1]["tool_calls"] == [tool_call("Paris", "call_1")]
    assert messages[2]["content"] == "sun"


def test_thinking_blocks_come_back_as_they_were(client: openai.OpenAI, upstream: Upstream) -> None:
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "s=="}]
    upstream.script = in_turn(
        whole(
            200,
            completion(
                None,
                tool_calls=[tool_call("Paris", "call_1")],
                reasoning_content="Hm.",
                thinking_blocks=blocks,
            ),
        ),
        whole(200, completion("Sun.")),
    )
    answer = client.responses.create(model=MODEL, input="Paris?", tools=[WEATHER])
    client.responses.create(
        model=MODEL,
        previous_response_id=answer.id,
        input=[{"type": "function_call_output", "call_id": "call_1", "output": "sun"}],
    )
    assert upstream.asked[-1].json()["messages"][1]["thinking_blocks"] == blocks


def test_a_conversation_carries_its_history(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Yes."))
    a, b = client.conversations.create().id, client.conversations.create().id
    first = client.responses.create(model=MODEL, input="One.", conversation=a)
    assert first.conversation is not None
    assert first.conversation.id == a
    client.responses.create(model=MODEL, input="Other.", conversation=b)
    client.responses.create(model=MODEL, input="Two.", conversation={"id": a})
    said = [each["content"] for each in upstream.asked[-1].json()["messages"]]
    assert said == ["One.", "Yes.", "Two."]


def test_an_item_reference_is_what_it_refers_to(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Yes."))
    first = client.responses.create(model=MODEL, input="One.")
    items: Any = [
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "Two."},
    ]
    client.responses.create(model=MODEL, input=items)
    assert upstream.asked[-1].json()["messages"] == [
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Two."},
    ]


# --- what is stored -----------------------------------------------------------------------------


def test_a_response_is_found_until_it_is_deleted(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("Hello there."))
    made = client.responses.create(model=MODEL, input="x", metadata={"a": "b"})
    found = client.responses.retrieve(made.id)
    assert found.to_dict() == made.to_dict()
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(made.id)


def test_a_streamed_response_is_found(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = streaming(chunks("Hello", " there"))
    with client.responses.stream(model=MODEL, input="x") as stream:
        made = stream.get_final_response()
    assert client.responses.retrieve(made.id).output_text == "Hello there"


def test_a_response_that_was_not_to_be_stored_is_not_found(
    client: openai.OpenAI, upstream: Upstream
) -> None:
    upstream.script = whole(200, completion())
    made = client.responses.create(model=MODEL, input="x", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_input_items_are_paged_in_both_orders(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = whole(200, completion())
    items: Any = [{"role": "user", "content": f"item {number}"} for number in range(25)]
    made = client.responses.create(model=MODEL, input=items)

    def said(order: Any, limit: int) -> list[str]:
        found: list[Any] = list(
            client.responses.input_items.list(made.id, order=order, limit=limit)
        )
        return [each.content[0].text for each in found]

    told = [f"item {number}" for number in range(25)]
    assert said("asc", 10) == told
    assert said("desc", 7) == told[::-1]
    page = client.responses.input_items.list(made.id)
    assert len(page.data) == 20
    assert page.has_more


def test_nul_characters_are_stored(served: Gateway, upstream: Upstream) -> None:
    upstream.script = whole(200, completion("a\0b"))
    made = create(served, input="x\0y", metadata={"a": "\0"})
    found = call(served, "GET", f"/{made['id']}").json()
    assert found["output"][0]["content"][0]["text"] == "a\0b"
