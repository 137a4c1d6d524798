"""What a newcomer does first: start the server without any configuration and ask its own model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.conftest import require_or_skip, spare_database
from tests.gateway import Gateway

pytestmark = pytest.mark.once

MODEL = "huggingface/smollm2-135m-instruct"
CAPITAL: list[ChatCompletionMessageParam] = [
    {"role": "user", "content": "What is the capital of France?"}
]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if importlib.util.find_spec("xllamacpp") is None:
        require_or_skip("the extra [local] is not installed")
    folder: Path = tmp_path_factory.mktemp("first-run")
    with spare_database(folder) as url:
        gateway = Gateway(folder, url)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


@pytest.fixture
def client(fresh: Gateway) -> Iterator[openai.OpenAI]:
    url = f"{fresh.url}/v1"
    with openai.OpenAI(base_url=url, api_key="not-needed", timeout=60) as client:
        yield client


def test_the_embedded_model_is_listed(client: openai.OpenAI) -> None:
    assert MODEL in {model.id for model in client.models.list()}


def test_the_embedded_model_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, max_tokens=24
    )
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_the_embedded_model_streams(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=CAPITAL, temperature=0, max_tokens=24, stream=True
        )
    )
    assert "Paris" in "".join(each.choices[0].delta.content or "" for each in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert len(chunks) > 3


def test_what_the_embedded_model_said_is_in_the_ledger(
    fresh: Gateway, client: openai.OpenAI
) -> None:
    before = len(fresh.rows())
    client.chat.completions.create(model=MODEL, messages=CAPITAL, max_tokens=4)
    rows = fresh.wait_for_rows(before + 1)
    assert {(row.status, bool(row.estimated)) for row in rows} == {("success", False)}
