"""Embeddings of the embedded model for real: llama.cpp's server, the runner and the adapter."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chat.errors import InvalidRequest, UpstreamRejected
from chat.parsing import parse_embeddings_request
from providers.adapters.base import Endpoint
from providers.adapters.huggingface import HuggingFaceAdapter
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from providers.runner.catalogue import EMBEDDED_MODEL, local_models
from providers.runner.supervisor import release_all
from tests.conftest import require_or_skip

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if not local_models():
        require_or_skip("the extra [local] is not installed")
    yield tmp_path_factory.mktemp("embedding")
    release_all()


@pytest.fixture
async def embed(data_dir: Path) -> AsyncIterator[Callable[..., Any]]:
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    endpoint = Endpoint(
        base_url="", api_key="", model=EMBEDDED_MODEL, options={"data_dir": str(data_dir)}
    )
    adapter = HuggingFaceAdapter(endpoint, client)

    async def embed(**body: Any) -> Any:
        reply = await adapter.embed(parse_embeddings_request(json.dumps(body).encode()))
        return json.loads(reply.body)

    yield embed
    await client.aclose()


def likeness(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))


async def test_what_means_the_same_lies_closer(embed: Callable[..., Any]) -> None:
    texts = ["A cat sat on the mat.", "A kitten is on the rug.", "Stock prices fell on Monday."]
    answer = await embed(input=texts)
    cat, kitten, stocks = (each["embedding"] for each in answer["data"])
    assert len(cat) == 576
    assert likeness(cat, kitten) > likeness(cat, stocks)


async def test_tokens_are_taken_and_counted(embed: Callable[..., Any]) -> None:
    answer = await embed(input=[[504, 3575], [28]])
    assert len(answer["data"]) == 2
    assert answer["usage"]["prompt_tokens"] == 3


async def test_base64_holds_the_same_vector(embed: Callable[..., Any]) -> None:
    from chat.embeddings import unpacked

    floats = (await embed(input="hello"))["data"][0]["embedding"]
    text = (await embed(input="hello", encoding_format="base64"))["data"][0]["embedding"]
    assert unpacked(text) == pytest.approx(floats, abs=1e-6)


async def test_dimensions_it_cannot_have_are_refused(embed: Callable[..., Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await embed(input="hello", dimensions=8)
    assert caught.value.param == "dimensions"


async def test_a_text_that_is_too_long_is_the_callers_mistake(embed: Callable[..., Any]) -> None:
    with pytest.raises(UpstreamRejected) as caught:
        await embed(input="word " * 6000)
    assert (caught.value.http_status, caught.value.code) == (400, "context_length_exceeded")


async def test_a_token_out_of_the_vocabulary_is_the_callers_mistake(
    embed: Callable[..., Any],
) -> None:
    with pytest.raises(UpstreamRejected):
        await embed(input=[10_000_000])
