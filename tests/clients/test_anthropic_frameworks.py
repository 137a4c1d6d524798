"""Frameworks that speak Anthropic's dialect, each through a loop of tools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import beta_tool
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, SecretStr
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.providers.anthropic import AnthropicProvider

from tests.clients.test_anthropic_sdk import weather_model
from tests.gateway import KEY, Gateway
from tests.upstream import Upstream, chunks, completion, streaming, whole

pytestmark = pytest.mark.once

MODEL = "scripted/gpt-4o-mini"
QUESTION = "Weather in Paris, then Rome?"
ANSWER = "sunny in Paris; sunny in Rome"


class City(BaseModel):
    """A city."""

    name: str
    population: int


# --- Anthropic's own runner of tools ------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdks_tool_runner_loops(gateway: Gateway, upstream: Upstream, stream: bool) -> None:
    upstream.script = weather_model

    @beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        runner: Any = client.beta.messages.tool_runner(
            model=MODEL,
            max_tokens=500,
            tools=[get_weather],
            messages=[{"role": "user", "content": QUESTION}],
            betas=["interleaved-thinking-2025-05-14"],
            stream=stream,
        )
        for turn in runner:
            last = turn.get_final_message() if stream else turn
    assert len(upstream.asked) == 3
    assert last.content[-1].text == ANSWER


# --- LangChain ----------------------------------------------------------------------------------


@pytest.fixture
def langchain(gateway: Gateway) -> ChatAnthropic:
    return ChatAnthropic(
        model_name=MODEL,
        base_url=gateway.url,
        api_key=SecretStr(KEY),
        max_retries=0,
        max_tokens_to_sample=500,
        timeout=20,
        stop=None,
    )


def test_langchain_streams(langchain: ChatAnthropic, upstream: Upstream) -> None:
    upstream.script = streaming(chunks("Hello", " there", "."))
    whole_message: Any = None
    for piece in langchain.stream([HumanMessage("Say hello.")]):
        whole_message = piece if whole_message is None else whole_message + piece
    assert whole_message.text == "Hello there."
    assert whole_message.usage_metadata["input_tokens"] == 9
    assert whole_message.usage_metadata["output_tokens"] == 3


def test_langchain_loops(langchain: ChatAnthropic, upstream: Upstream) -> None:
    upstream.script = weather_model

    @tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    bound = langchain.bind_tools([get_weather])
    messages: list[Any] = [HumanMessage(QUESTION)]
    for _ in range(5):
        answer = bound.invoke(messages)
        assert isinstance(answer, AIMessage)
        messages.append(answer)
        if not answer.tool_calls:
            break
        for call in answer.tool_calls:
            result = get_weather.invoke(call["args"])
            messages.append(ToolMessage(result, tool_call_id=call["id"]))
    assert len(upstream.asked) == 3
    assert answer.text == ANSWER


# --- pydantic-ai --------------------------------------------------------------------------------


@pytest.fixture
async def model(gateway: Gateway) -> AsyncIterator[AnthropicModel]:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=client))


@pytest.mark.parametrize("stream", [False, True])
async def test_pydantic_ai_loops(model: AnthropicModel, upstream: Upstream, stream: bool) -> None:
    upstream.script = weather_model
    agent = Agent(model)

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"sunny in {city}"

    if stream:
        async with agent.run_stream(QUESTION) as running:
            output = await running.get_output()
    else:
        output = (await agent.run(QUESTION)).output
    assert output == ANSWER
    assert len(upstream.asked) == 3


async def test_pydantic_ai_gets_an_object_by_a_tool(
    model: AnthropicModel, upstream: Upstream
) -> None:
    function = {"name": "final_result", "arguments": '{"name": "Paris", "population": 2100000}'}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    upstream.script = whole(200, completion(None, tool_calls=calls))
    result = await Agent(model, output_type=City).run("Paris?")
    assert result.output == City(name="Paris", population=2_100_000)
    assert upstream.asked[0].json()["tool_choice"] == "required"
