"""Clients nobody here wrote, each asking every kind of provider for an object of its own class: of
providers that hold a model to a schema, that have no more than tools, and that have neither."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import instructor
import ollama
import openai
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr
from pydantic_ai import Agent, NativeOutput, PromptedOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.conversation import dialect_at
from tests.conftest import spare_database
from tests.contract.dialects import Answer, Call
from tests.contract.kinds import SPEAKS
from tests.gateway import KEY, Gateway, configuration
from tests.upstream import Asked, Peer, scripted_upstream

pytestmark = pytest.mark.once

QUESTION: Any = [{"role": "user", "content": "Which city?"}]


class City(BaseModel):
    """A city."""

    title: str = Field(description="What it is called")
    people: int


PARIS = City(title="Paris", people=2_100_000)
TOLD = PARIS.model_dump_json()

NO_SCHEMA = {"structured_output": False}
BARE = {
    **dict.fromkeys(("tools", "parallel_tools", "tool_choice"), False),
    **dict.fromkeys(("structured_output", "json_mode"), False),
}
LEVELS: dict[str, dict[str, bool]] = {"own": {}, "tools": NO_SCHEMA, "bare": BARE}


async def tell_of_paris(asked: Asked, peer: Peer) -> None:
    """Does as it is told: calls the tool that takes a city, in the form it knows, or says it."""
    dialect, body = dialect_at(asked.path), asked.json()
    answer = _answer(body)
    if not dialect.read(body).streams:
        peer.answer(200, json.dumps(dialect.whole(answer)).encode())
        return
    peer.begin(content_type=dialect.content_type)
    for event in dialect.stream(answer):
        peer.piece(event)
    peer.end()


def _answer(body: dict[str, Any]) -> Answer:
    for tool in body.get("tools") or ():
        function = tool.get("function") or tool
        if "people" in json.dumps(function):
            return Answer(calls=(Call("call_1", function["name"], (TOLD,)),))
    held = any(name in body for name in ("response_format", "output_config", "format"))
    if held:
        return Answer(words=(TOLD[:9], TOLD[9:]))
    told = json.dumps(body)
    if "<tool_call>" in told:
        return Answer(words=(f"<tool_call>{_written_call(told)}</tool_call>",))
    return Answer(words=("Here you are:\n```json\n", TOLD, "\n```"))


def _written_call(told: str) -> str:
    _, _, described = told.partition("<tools>")
    name = described.partition('\\"name\\": \\"')[2].partition('\\"')[0]
    return json.dumps({"name": name, "arguments": PARIS.model_dump()})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A provider of every kind on every level, named by both."""
    folder = tmp_path_factory.mktemp("structured")
    with spare_database(folder) as url, scripted_upstream(tell_of_paris) as upstream:
        configured = configuration(upstream.base_url)
        (scripted,) = configured["providers"]
        named = {(kind, level): f"{kind}-{level}" for kind in SPEAKS for level in LEVELS}
        over_chat = {"options": {"responses": False}}
        providers = [
            {**scripted, "name": name, "kind": kind, **(over_chat if kind == "openai" else {})}
            for (kind, _), name in named.items()
        ]
        deployments = [
            {"provider": name, "model": "m", "capabilities": LEVELS[level]}
            for (_, level), name in named.items()
        ]
        served = Gateway(folder, url)
        served.apply(
            {"providers": providers, "deployments": deployments, "keys": configured["keys"]}
        )
        try:
            served.start()
            yield served
        finally:
            served.stop()


def model_of(kind: str, level: str) -> str:
    return f"{kind}-{level}/m"


Ask = Callable[[str, str], Any]


def openai_parse(url: str, model: str) -> Any:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.parse(model=model, messages=QUESTION, response_format=City)
    return answer.choices[0].message.parsed


def openai_parse_stream(url: str, model: str) -> Any:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        client.chat.completions.stream(
            model=model, messages=QUESTION, response_format=City
        ) as helper,
    ):
        return helper.get_final_completion().choices[0].message.parsed


def openai_responses(url: str, model: str) -> Any:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        return client.responses.parse(model=model, input="City?", text_format=City).output_parsed


def openai_responses_stream(url: str, model: str) -> Any:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        client.responses.stream(model=model, input="City?", text_format=City) as helper,
    ):
        return helper.get_final_response().output_parsed


def anthropic_parse(url: str, model: str) -> Any:
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        answer = client.messages.parse(
            model=model, max_tokens=50, messages=QUESTION, output_format=City
        )
    return answer.parsed_output


def ollama_format(url: str, model: str) -> Any:
    with ollama.Client(host=url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = client.chat(model=model, messages=QUESTION, format=City.model_json_schema())
    return City.model_validate_json(answer.message.content or "")


def langchain_openai(url: str, model: str) -> Any:
    chat = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=SecretStr(KEY), max_retries=0)
    return chat.with_structured_output(City).invoke("Which city?")


def langchain_openai_json_mode(url: str, model: str) -> Any:
    chat = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=SecretStr(KEY), max_retries=0)
    return chat.with_structured_output(City, method="json_mode").invoke("Which city, in JSON?")


def langchain_anthropic(url: str, model: str) -> Any:
    chat = ChatAnthropic(
        model_name=model,
        base_url=url,
        api_key=SecretStr(KEY),
        max_retries=0,
        max_tokens_to_sample=50,
        timeout=20,
        stop=None,
    )
    return chat.with_structured_output(City).invoke("Which city?")


def pydantic_ai(output: Any) -> Callable[[str, str], Any]:
    async def ask(url: str, model: str) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            chat = OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client))
            return (await Agent(chat, output_type=output).run("Which city?")).output

    return ask


async def pydantic_ai_responses(url: str, model: str) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        chat = OpenAIResponsesModel(model, provider=OpenAIProvider(openai_client=client))
        return (await Agent(chat, output_type=NativeOutput(City)).run("Which city?")).output


async def pydantic_ai_anthropic(url: str, model: str) -> Any:
    async with anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client:
        chat = AnthropicModel(model, provider=AnthropicProvider(anthropic_client=client))
        return (await Agent(chat, output_type=City).run("Which city?")).output


def instructor_of(mode: str) -> Callable[[str, str], Any]:
    def ask(url: str, model: str) -> Any:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            patched = instructor.from_openai(client, mode=instructor.Mode[mode])
            return patched.chat.completions.create(
                model=model, messages=QUESTION, response_model=City, max_retries=0
            )

    return ask


CLIENTS: dict[str, Ask] = {
    "openai-parse": openai_parse,
    "openai-stream": openai_parse_stream,
    "openai-responses": openai_responses,
    "openai-responses-stream": openai_responses_stream,
    "anthropic-parse": anthropic_parse,
    "ollama": ollama_format,
    "langchain-openai": langchain_openai,
    "langchain-openai-json-mode": langchain_openai_json_mode,
    "langchain-anthropic": langchain_anthropic,
    "pydantic-ai-tool": pydantic_ai(City),
    "pydantic-ai-native": pydantic_ai(NativeOutput(City)),
    "pydantic-ai-prompted": pydantic_ai(PromptedOutput(City)),
    "pydantic-ai-responses": pydantic_ai_responses,
    "pydantic-ai-anthropic": pydantic_ai_anthropic,
    "instructor-tools": instructor_of("TOOLS"),
    "instructor-json": instructor_of("JSON"),
    "instructor-json-schema": instructor_of("JSON_SCHEMA"),
}


@pytest.mark.parametrize(
    ("client", "level"),
    [
        *((client, level) for client in CLIENTS for level in ("own", "bare")),
        ("openai-parse", "tools"),
        ("openai-responses-stream", "tools"),
    ],
)
async def test_every_kind_gives_an_object_of_the_clients_class(
    gateway: Gateway, client: str, level: str
) -> None:
    found = {}
    for kind in SPEAKS:
        told = CLIENTS[client](gateway.url, model_of(kind, level))
        found[kind] = (await told) if hasattr(told, "__await__") else told
    assert {kind: City(**vars(city)) for kind, city in found.items()} == dict.fromkeys(
        SPEAKS, PARIS
    )
