"""The Responses API over Anthropic: its thinking survives a tool loop (M32)."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall

from tests.anthropic_upstream import (
    SIGNED,
    message,
    stream,
    text,
    text_block,
    thinking_block,
    tool_block,
    tool_use,
)
from tests.responses.calls import in_turn
from tests.responses.test_translated import WEATHER
from tests.upstream import Upstream, streaming, whole

pytestmark = pytest.mark.once

MODEL = "claude/claude-sonnet-4-5"
CALL = tool_use("toolu_1", "get_weather", city="Paris")


@pytest.mark.parametrize("keeps", [True, False], ids=["previous_response_id", "items sent back"])
@pytest.mark.parametrize("streamed", [False, True])
def test_signed_thinking_comes_back_untouched_in_a_tool_loop(
    client: openai.OpenAI, upstream: Upstream, keeps: bool, streamed: bool
) -> None:
    first = whole(200, message(SIGNED, CALL, stop="tool_use"))
    if streamed:
        thought = thinking_block(0, "Let me ", "see.", signature=SIGNED["signature"])
        call = tool_block(1, "toolu_1", "get_weather", '{"city": ', '"Paris"}')
        first = streaming(stream(thought, call, stop="tool_use"))
    upstream.script = in_turn(first, whole(200, message(text("Sun."))))
    asked: Any = {"model": MODEL, "tools": [WEATHER], "max_output_tokens": 2000}
    asked["reasoning"] = {"effort": "low"}
    if streamed:
        with client.responses.stream(**asked, input="Paris?") as events:
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(**asked, input="Paris?")
    thought_item, call_item = answer.output
    assert thought_item.summary[0].text == "Let me see."
    assert isinstance(call_item, ResponseFunctionToolCall)
    result = {"type": "function_call_output", "call_id": call_item.call_id, "output": "sun"}
    follow_up: Any = {"previous_response_id": answer.id, "input": [result]}
    if not keeps:
        items = [each.model_dump(exclude={"parsed_arguments"}) for each in answer.output]
        follow_up = {"input": [{"role": "user", "content": "Paris?"}, *items, result]}
    final = client.responses.create(**asked, **follow_up)
    assert final.output_text == "Sun."
    user, assistant, told = upstream.asked[-1].json()["messages"]
    assert assistant["content"] == [SIGNED, CALL]
    assert told["content"][0]["tool_use_id"] == "toolu_1"
    assert final.usage is not None
    assert final.usage.input_tokens == 60
    assert final.usage.input_tokens_details.cached_tokens == 30


def test_a_stream_is_told_in_typed_events(client: openai.OpenAI, upstream: Upstream) -> None:
    upstream.script = streaming(stream(text_block(0, "Hello", " there")))
    with client.responses.stream(model=MODEL, input="x") as events:
        final = events.get_final_response()
    assert final.output_text == "Hello there"
    assert final.status == "completed"
