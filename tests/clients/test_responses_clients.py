"""Clients nobody here wrote that speak the Responses API: a tool loop of three turns each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.gateway import KEY, Gateway
from tests.responses.calls import in_turn
from tests.upstream import Upstream, chunks, completion, streaming, whole

pytestmark = pytest.mark.once

MODEL = "scripted/gpt-4o-mini"


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}: sun"


def called(city: str, call_id: str) -> Any:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return whole(200, completion(None, tool_calls=calls))


def script() -> Any:
    return in_turn(
        called("Paris", "call_1"), called("Rome", "call_2"), whole(200, completion("Sun in both."))
    )


def check(upstream: Upstream) -> None:
    messages = upstream.asked[-1].json()["messages"]
    assert [each["role"] for each in messages if each["role"] != "system"] == [
        *("user", "assistant", "tool", "assistant", "tool")
    ]
    results = [each for each in messages if each["role"] == "tool"]
    assert [each["tool_call_id"] for each in results] == ["call_1", "call_2"]
    assert [each["content"] for each in results] == ["Paris: sun", "Rome: sun"]


@pytest.mark.parametrize("keeps", [False, True], ids=["items sent back", "previous_response_id"])
def test_langchain(gateway: Gateway, upstream: Upstream, keeps: bool) -> None:
    upstream.script = script()
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr(KEY),
        max_retries=0,
        use_responses_api=True,
        use_previous_response_id=keeps,
    ).bind_tools([get_weather])
    messages: list[AnyMessage] = [HumanMessage("Paris and Rome?")]
    answer = model.invoke(messages)
    while answer.tool_calls:
        messages.append(answer)
        for call in answer.tool_calls:
            result = get_weather.invoke(call["args"])
            messages.append(ToolMessage(result, tool_call_id=call["id"]))
        answer = model.invoke(messages)
    assert answer.text == "Sun in both."
    check(upstream)


def test_langchain_streams(gateway: Gateway, upstream: Upstream) -> None:
    upstream.script = streaming(chunks("Hello", " there"))
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr(KEY),
        max_retries=0,
        use_responses_api=True,
    )
    pieces = list(model.stream("Say hello."))
    assert "".join(piece.text for piece in pieces) == "Hello there"


@pytest.fixture
async def provider(gateway: Gateway) -> AsyncIterator[OpenAIProvider]:
    url = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield OpenAIProvider(openai_client=client)


async def test_pydantic_ai(provider: OpenAIProvider, upstream: Upstream) -> None:
    upstream.script = script()
    agent = Agent(OpenAIResponsesModel(MODEL, provider=provider), instructions="Be brief.")

    @agent.tool_plain(name="get_weather")
    def weather(city: str) -> str:
        return f"{city}: sun"

    result = await agent.run("Paris and Rome?")
    assert result.output == "Sun in both."
    check(upstream)


async def test_pydantic_ai_streams(provider: OpenAIProvider, upstream: Upstream) -> None:
    upstream.script = streaming(chunks("Hello", " there"))
    agent = Agent(OpenAIResponsesModel(MODEL, provider=provider))
    async with agent.run_stream("Say hello.") as result:
        assert await result.get_output() == "Hello there"
