"""The fake provider's vectors."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from chat.embeddings import unpacked
from chat.errors import InvalidRequest, UnsupportedEndpoint, UpstreamOverloaded
from chat.parsing import parse_embeddings_request
from providers.adapters.base import Endpoint
from providers.adapters.fake import FakeAdapter
from providers.capabilities import Capabilities
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy

pytestmark = pytest.mark.once


async def embed(model: str = "echo", *, embeddings: bool = True, **body: Any) -> list[Any]:
    options = {"models": {"echo": {}, "down": {"error": {"status": 503}}}}
    endpoint = Endpoint(
        base_url="",
        api_key="",
        model=model,
        options=options,
        capabilities=Capabilities(embeddings=embeddings),
    )
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    adapter = FakeAdapter(endpoint, client)
    reply = await adapter.embed(parse_embeddings_request(json.dumps(body).encode()))
    assert reply.usage is not None
    return [each["embedding"] for each in json.loads(reply.body)["data"]]


async def test_a_text_has_one_vector_for_ever_and_another_text_another() -> None:
    one, other, again = await embed(input=["a", "b", "a"])
    assert one == again != other
    assert math.hypot(*one) == pytest.approx(1.0)
    assert await embed(input=[[1, 2], [3]]) == [*await embed(input=[1, 2]), *await embed(input=[3])]


async def test_dimensions_and_base64_are_as_asked() -> None:
    (vector,) = await embed(input="a", dimensions=8)
    (text,) = await embed(input="a", dimensions=8, encoding_format="base64")
    assert unpacked(text) == pytest.approx(vector, abs=1e-6)
    assert len(vector) == 8


@pytest.mark.parametrize(
    "fields", [{"dimensions": 0}, {"dimensions": 10**9}, {"encoding_format": "hex"}]
)
async def test_what_it_cannot_do_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await embed(input="a", **fields)


async def test_a_model_said_to_have_none_has_none() -> None:
    with pytest.raises(UnsupportedEndpoint):
        await embed(input="a", embeddings=False)


async def test_a_scripted_failure_fails() -> None:
    with pytest.raises(UpstreamOverloaded):
        await embed("down", input="a")
