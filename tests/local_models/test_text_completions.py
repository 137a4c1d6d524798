"""Text completions of the embedded model for real: llama.cpp's server, the runner, the adapter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from chat.errors import InvalidRequest
from chat.parsing import parse_text_request
from chat.text_completions import TextRequest
from providers.adapters.base import Endpoint
from providers.adapters.huggingface import HuggingFaceAdapter
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.runner.catalogue import EMBEDDED_MODEL, local_models
from providers.runner.supervisor import release_all
from tests.conftest import require_or_skip

pytestmark = pytest.mark.once

FRANCE = "The capital of France is"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not local_models():
        require_or_skip("the extra [local] is not installed")
    yield tmp_path_factory.mktemp("texts")
    release_all()


@pytest.fixture
async def adapter(data_dir: Path) -> AsyncIterator[HuggingFaceAdapter]:
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    options = {"data_dir": str(data_dir)}
    yield HuggingFaceAdapter(
        Endpoint(base_url="", api_key="", model=EMBEDDED_MODEL, options=options), client
    )
    await client.aclose()


def asked(**body: Any) -> TextRequest:
    return parse_text_request(json.dumps({"max_tokens": 3, **body}).encode())


async def test_a_prompt_is_carried_on_as_text_and_not_as_a_chat(
    adapter: HuggingFaceAdapter,
) -> None:
    told = json.loads((await adapter.complete_text(asked(prompt=FRANCE))).body)
    assert told["choices"][0]["text"].startswith(" Paris")
    assert told["choices"][0]["finish_reason"] == "length"
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (5, 3)


async def test_a_list_of_prompts_is_counted_whole(adapter: HuggingFaceAdapter) -> None:
    told = json.loads((await adapter.complete_text(asked(prompt=[FRANCE, FRANCE], n=2))).body)
    assert [each["index"] for each in told["choices"]] == [0, 1, 2, 3]
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (20, 12)


async def test_tokens_are_taken(adapter: HuggingFaceAdapter) -> None:
    told = json.loads((await adapter.complete_text(asked(prompt=[[504, 3575, 282, 4649]]))).body)
    assert told["choices"][0]["text"].startswith(" is Paris")
    assert told["usage"]["prompt_tokens"] == 4


async def test_echo_and_log_probabilities_have_the_legacy_shape(
    adapter: HuggingFaceAdapter,
) -> None:
    echoed = json.loads((await adapter.complete_text(asked(prompt=FRANCE, echo=True))).body)
    assert echoed["choices"][0]["text"].startswith(f"{FRANCE} Paris")
    told = json.loads((await adapter.complete_text(asked(prompt=FRANCE, logprobs=2))).body)
    logprobs = told["choices"][0]["logprobs"]
    assert logprobs["tokens"][0] == " Paris"
    assert len(logprobs["top_logprobs"][0]) == 2


async def test_a_stream_says_the_same_and_counts_the_same(adapter: HuggingFaceAdapter) -> None:
    text, usage = ["", ""], None
    request = asked(prompt=[FRANCE, FRANCE], stream=True, echo=True)
    async with aclosing(adapter.stream_text(request)) as batches:
        async for batch in batches:
            for chunk in batch.chunks:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    text[choice.index] += choice.delta.content or ""
    assert all(each.startswith(f"{FRANCE} Paris") for each in text)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 6)


@pytest.mark.parametrize("fields", [{"suffix": "."}, {"best_of": 2}, {"echo": True, "logprobs": 1}])
async def test_what_it_would_pass_over_in_silence_is_refused(
    adapter: HuggingFaceAdapter, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        await adapter.complete_text(asked(prompt=FRANCE, **fields))
