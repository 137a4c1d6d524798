"""Local models as callers of the gateway see them, in a folder that the environment names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall, ChatCompletionMessageParam
from pydantic import BaseModel, Field

from providers.runner.catalogue import EMBEDDED_MODEL
from tests.conftest import spare_database
from tests.gateway import KEY, Gateway, wait_until
from tests.local_models.conversion import NAME, converted_model
from tests.local_models.local import require

pytestmark = pytest.mark.once

CAPITAL: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    require("mlx")
    require("transformers")
    folder: Path = tmp_path_factory.mktemp("local-models")
    with spare_database(folder) as url:
        models = str(converted_model().parent)
        gateway = Gateway(folder, url, environment={"ABSTRACTCORE_MODELS_DIR": models})
        gateway.apply({"providers": [], "keys": [{"name": "ci", "secret": KEY}]})
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, timeout=120) as client:
        yield client


@pytest.fixture(params=["huggingface", "mlx"])
def model(request: pytest.FixtureRequest) -> str:
    return f"{request.param}/{NAME}"


def test_a_folders_models_are_listed_with_their_context(client: openai.OpenAI, model: str) -> None:
    listed = {each.id: each.to_dict() for each in client.models.list()}
    assert listed[model]["context_window"] == 8192


def test_a_folders_model_answers_and_streams(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, messages=CAPITAL, temperature=0, max_tokens=24
    )
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=CAPITAL,
            temperature=0,
            max_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == answer.choices[0].message.content
    assert "Paris" in said
    assert answer.usage is not None and answer.usage == chunks[-1].usage


def test_the_ledger_has_its_exact_tokens(gateway: Gateway, client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=f"huggingface/{NAME}", messages=CAPITAL, max_tokens=4
    )
    wanted = answer.headers["x-request-id"]
    wait_until(lambda: wanted in {row.request_id for row in gateway.rows()}, seconds=20)
    [row] = [row for row in gateway.rows() if row.request_id == wanted]
    assert (row.tokens_input, row.tokens_output, bool(row.estimated)) == (27, 4, False)


class Place(BaseModel):
    kind: Literal["city", "river"]
    marks: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(max_length=2)]


@pytest.mark.parametrize("name", [EMBEDDED_MODEL, NAME])
def test_the_sdks_own_schema_of_a_class_is_kept(client: openai.OpenAI, name: str) -> None:
    answer = client.chat.completions.parse(
        model=f"huggingface/{name}", messages=CAPITAL, response_format=Place, max_tokens=200
    )
    assert isinstance(answer.choices[0].message.parsed, Place)


@pytest.mark.parametrize("name", [EMBEDDED_MODEL, NAME])
def test_a_demanded_call_comes_and_is_said_to_be_imitated(client: openai.OpenAI, name: str) -> None:
    parameters: dict[str, object] = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    }
    answer = client.chat.completions.with_raw_response.create(
        model=f"huggingface/{name}",
        messages=CAPITAL,
        tools=[{"type": "function", "function": {"name": "find", "parameters": parameters}}],
        tool_choice="required",
        max_tokens=100,
    )
    [choice] = answer.parse().choices
    assert choice.finish_reason == "tool_calls"
    assert answer.headers["x-gateway-emulated"] == "tool_choice"
    [call] = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "find"
    assert list(json.loads(call.function.arguments)) == ["city"]


@pytest.mark.parametrize(
    "name",
    [
        "../models",
        f"../{converted_model.__name__}",
        "/etc",
        f"./{NAME}",
        f"{NAME}/.",
        f"{NAME}/config.json",
        "..%2f..%2fetc",
        "models--a--b",
    ],
)
def test_a_callers_name_reaches_no_path(gateway: Gateway, name: str) -> None:
    for provider in ("huggingface", "mlx"):
        answer = gateway.chat({"model": f"{provider}/{name}", "messages": CAPITAL, "max_tokens": 1})
        assert answer.status == 404, answer.body
        assert answer.json()["error"]["code"] == "model_not_found"
