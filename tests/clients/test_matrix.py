"""Clients nobody here wrote, each against every kind of provider: an answer, a stream, a call."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import anthropic
import ollama
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.conversation import HELLO, LOOKING, SUNNY, model_of
from tests.contract.kinds import SPEAKS
from tests.gateway import KEY, Gateway

pytestmark = pytest.mark.once

QUESTION: Any = [{"role": "user", "content": "Hello"}]
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS},
}
CALLED = [(call.name, call.arguments) for call in LOOKING.calls]
Calls = list[tuple[str, Any]]


class Client(ABC):
    """A client of the gateway at `url`, for one model."""

    name: ClassVar[str]

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    @abstractmethod
    async def answer(self) -> str:
        """The text of a whole answer."""

    @abstractmethod
    async def stream(self) -> str:
        """The text of a stream."""

    @abstractmethod
    async def call(self) -> Calls:
        """What a stream calls where it is offered a tool."""


class OpenAISDK(Client):
    name = "openai"

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    async def answer(self) -> str:
        with self.client() as client:
            whole = client.chat.completions.create(model=self.model, messages=QUESTION)
        assert whole.usage is not None
        assert whole.usage.total_tokens > 0
        assert whole.choices[0].finish_reason == "stop"
        return whole.choices[0].message.content or ""

    async def stream(self) -> str:
        with self.client() as client:
            chunks = list(
                client.chat.completions.create(model=self.model, messages=QUESTION, stream=True)
            )
        assert chunks[-1].choices[0].finish_reason == "stop"
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    async def call(self) -> Calls:
        with (
            self.client() as client,
            client.chat.completions.stream(
                model=self.model, messages=QUESTION, tools=[WEATHER]
            ) as helper,
        ):
            choice = helper.get_final_completion().choices[0]
        assert choice.finish_reason == "tool_calls"
        functions = [each.function for each in choice.message.tool_calls or ()]
        return [(each.name, json.loads(each.arguments)) for each in functions]


class AnthropicSDK(Client):
    name = "anthropic"

    def client(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.url, api_key=KEY, max_retries=0)

    async def answer(self) -> str:
        with self.client() as client:
            message = client.messages.create(model=self.model, max_tokens=50, messages=QUESTION)
        assert message.stop_reason == "end_turn"
        assert message.usage.output_tokens > 0
        return "".join(block.text for block in message.content if block.type == "text")

    async def stream(self) -> str:
        with (
            self.client() as client,
            client.messages.stream(model=self.model, max_tokens=50, messages=QUESTION) as helper,
        ):
            text = "".join(helper.text_stream)
            assert helper.get_final_message().stop_reason == "end_turn"
        return text

    async def call(self) -> Calls:
        offered: Any = {"name": "get_weather", "input_schema": PARAMETERS}
        with (
            self.client() as client,
            client.messages.stream(
                model=self.model, max_tokens=50, messages=QUESTION, tools=[offered]
            ) as helper,
        ):
            message = helper.get_final_message()
        assert message.stop_reason == "tool_use"
        return [(each.name, each.input) for each in message.content if each.type == "tool_use"]


class OllamaSDK(Client):
    name = "ollama"

    def client(self) -> ollama.Client:
        return ollama.Client(host=self.url, headers={"Authorization": f"Bearer {KEY}"})

    async def answer(self) -> str:
        with self.client() as client:
            whole = client.chat(model=self.model, messages=QUESTION)
        assert (whole.done, whole.done_reason) == (True, "stop")
        return whole.message.content or ""

    async def stream(self) -> str:
        with self.client() as client:
            lines = list(client.chat(model=self.model, messages=QUESTION, stream=True))
        assert lines[-1].done
        assert (lines[-1].eval_count or 0) > 0
        return "".join(line.message.content or "" for line in lines)

    async def call(self) -> Calls:
        with self.client() as client:
            lines = list(
                client.chat(model=self.model, messages=QUESTION, tools=[WEATHER], stream=True)
            )
        calls = [call.function for line in lines for call in line.message.tool_calls or ()]
        return [(call.name, dict(call.arguments)) for call in calls]


class LangChain(Client):
    @abstractmethod
    def chat(self) -> BaseChatModel: ...

    async def answer(self) -> str:
        return self.chat().invoke("Hello").text

    async def stream(self) -> str:
        return "".join(piece.text for piece in self.chat().stream("Hello"))

    async def call(self) -> Calls:
        @tool
        def get_weather(city: str) -> str:
            """The weather of a city."""
            raise NotImplementedError

        message: Any = self.chat().bind_tools([get_weather]).invoke("Hello")
        return [(call["name"], call["args"]) for call in message.tool_calls]


class LangChainOpenAI(LangChain):
    name = "langchain-openai"

    def chat(self) -> BaseChatModel:
        return ChatOpenAI(
            model=self.model, base_url=f"{self.url}/v1", api_key=SecretStr(KEY), max_retries=0
        )


class LangChainAnthropic(LangChain):
    name = "langchain-anthropic"

    def chat(self) -> BaseChatModel:
        return ChatAnthropic(
            model_name=self.model,
            base_url=self.url,
            api_key=SecretStr(KEY),
            max_retries=0,
            max_tokens_to_sample=50,
            timeout=20,
            stop=None,
        )


class PydanticAI(Client):
    """Calls its tools itself, and asks again with what they found."""

    @abstractmethod
    def client(self) -> Any: ...

    @abstractmethod
    def chat(self, client: Any) -> Model: ...

    async def answer(self) -> str:
        async with self.client() as client:
            return (await Agent(self.chat(client)).run("Hello")).output

    async def stream(self) -> str:
        async with (
            self.client() as client,
            Agent(self.chat(client)).run_stream("Hello") as running,
        ):
            return await running.get_output()

    async def call(self) -> Calls:
        calls: Calls = []

        def get_weather(city: str) -> str:
            """The weather of a city."""
            calls.append(("get_weather", {"city": city}))
            return f"sunny in {city}"

        async with self.client() as client:
            agent = Agent(self.chat(client), tools=[get_weather])
            assert (await agent.run("Hello")).output == SUNNY.text
        return calls


class PydanticAIOpenAI(PydanticAI):
    name = "pydantic-ai-openai"

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def chat(self, client: Any) -> Model:
        return OpenAIChatModel(self.model, provider=OpenAIProvider(openai_client=client))


class PydanticAIAnthropic(PydanticAI):
    name = "pydantic-ai-anthropic"

    def client(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url, api_key=KEY, max_retries=0)

    def chat(self, client: Any) -> Model:
        return AnthropicModel(self.model, provider=AnthropicProvider(anthropic_client=client))


CLIENTS: list[type[Client]] = [
    OpenAISDK,
    AnthropicSDK,
    OllamaSDK,
    LangChainOpenAI,
    LangChainAnthropic,
    PydanticAIOpenAI,
    PydanticAIAnthropic,
]


@pytest.fixture(params=SPEAKS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=CLIENTS, ids=lambda each: each.name)
def client(request: pytest.FixtureRequest, talking: Gateway, kind: str) -> Client:
    made: type[Client] = request.param
    return made(talking.url, model_of(kind))


async def test_an_answer(client: Client) -> None:
    assert await client.answer() == HELLO.text


async def test_a_stream(client: Client) -> None:
    assert await client.stream() == HELLO.text


async def test_a_tool_call(client: Client) -> None:
    assert await client.call() == CALLED
