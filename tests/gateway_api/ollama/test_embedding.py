"""`/api/embed` and `/api/embeddings` over both kinds of upstream."""

from __future__ import annotations

import json
from typing import Any

import ollama
import pytest

from tests.gateway import KEY, Gateway
from tests.upstream import Asked, Peer, Upstream, whole

MODEL = "scripted/text-embedding-3-small"
VECTORS = [[0.5, 1.0], [0.25, -1.0]]


async def embeds(asked: Asked, peer: Peer) -> None:
    """Answers on the wire it is asked on, a vector for each text."""
    texts = asked.json()["input"]
    vectors = VECTORS[: 1 if isinstance(texts, str) else len(texts)]
    answer: dict[str, Any] = {"model": "m", "embeddings": vectors, "prompt_eval_count": 4}
    if asked.path == "/v1/embeddings":
        data = [
            {"object": "embedding", "index": at, "embedding": vector}
            for at, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 4, "total_tokens": 4}
        answer = {"object": "list", "data": data, "model": "m", "usage": usage}
    peer.answer(200, json.dumps(answer).encode())


@pytest.fixture(autouse=True)
def embedding_upstream(upstream: Upstream) -> Upstream:
    upstream.script = embeds
    return upstream


@pytest.mark.parametrize("model", [MODEL, "llama/nomic"])
def test_the_client_gets_a_vector_for_each_text(
    mixed_gateway: Gateway, upstream: Upstream, model: str
) -> None:
    bearer = {"Authorization": f"Bearer {KEY}"}
    with ollama.Client(host=mixed_gateway.url, headers=bearer) as client:
        both = client.embed(model=model, input=["a", "b"])
        one = client.embed(model=model, input="a")
        old = client.embeddings(model=model, prompt="a")
    assert both.embeddings == VECTORS
    assert both.prompt_eval_count == 4
    assert one.embeddings == VECTORS[:1]
    assert old.embedding == VECTORS[0]


def test_what_openai_has_no_word_for_is_told_of(mixed_gateway: Gateway, upstream: Upstream) -> None:
    request = {
        "model": MODEL,
        "input": ["a"],
        "dimensions": 2,
        "truncate": True,
        "options": {"num_ctx": 1},
        "keep_alive": None,
    }
    answered = mixed_gateway.post("/api/embed", request)
    assert answered.headers["x-gateway-dropped-params"] == "options, truncate"
    assert upstream.asked[0].json() == {
        "model": "text-embedding-3-small",
        "input": ["a"],
        "dimensions": 2,
        "encoding_format": "float",
    }


def test_an_ollama_upstream_gets_the_body_as_it_came(
    mixed_gateway: Gateway, upstream: Upstream
) -> None:
    request = {"model": "llama/nomic", "input": ["a"], "truncate": False, "options": {"num_ctx": 1}}
    answered = mixed_gateway.post("/api/embed", request)
    assert "x-gateway-dropped-params" not in answered.headers
    assert upstream.asked[0].json() == {**request, "model": "nomic"}


def test_the_ledger_has_the_wire_and_the_count(mixed_gateway: Gateway) -> None:
    request = {"model": MODEL, "input": "a"}
    mixed_gateway.post("/api/embed", request, x_request_id="ollama-embed")
    row = mixed_gateway.usage_row("ollama-embed")
    assert (row["wire"], row["endpoint"], row["tokens_input"]) == ("ollama", "embed", 4)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {"model": MODEL}),
        ("/api/embed", {"model": MODEL, "input": []}),
        ("/api/embed", {"model": MODEL, "input": [1, 2]}),
        ("/api/embed", {"model": MODEL, "input": ["a", 5]}),
        ("/api/embed", {"model": MODEL, "input": "a", "options": 5}),
        ("/api/embed", b"[]"),
        ("/api/embeddings", {"model": MODEL}),
        ("/api/embeddings", {"model": MODEL, "prompt": ["a"]}),
    ],
)
def test_bad_input_is_400_and_asks_nothing(
    mixed_gateway: Gateway, upstream: Upstream, path: str, body: Any
) -> None:
    answered = mixed_gateway.post(path, body)
    assert answered.status == 400, answered.body
    assert list(answered.json()) == ["error"]
    assert upstream.asked == []


def test_an_error_of_the_upstream_is_in_ollamas_envelope(
    mixed_gateway: Gateway, upstream: Upstream
) -> None:
    upstream.script = whole(400, {"error": {"message": "too long"}})
    answered = mixed_gateway.post("/api/embed", {"model": MODEL, "input": "a"})
    assert (answered.status, answered.json()) == (400, {"error": "too long"})
