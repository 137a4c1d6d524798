"""LangChain's embeddings and its text completions."""

from __future__ import annotations

import json

import pytest
from langchain_openai import OpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from tests.gateway import KEY, Gateway
from tests.upstream import Asked, Peer, Upstream, completion

pytestmark = pytest.mark.once


def test_documents_are_embedded(gateway: Gateway, upstream: Upstream) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        texts = asked.json()["input"]
        data = [{"index": at, "embedding": [len(text), 0.5]} for at, text in enumerate(texts)]
        peer.answer(200, json.dumps({"object": "list", "data": data}).encode())

    upstream.script = script
    embeddings = OpenAIEmbeddings(
        model="scripted/embed",
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr(KEY),
        check_embedding_ctx_length=False,  # which would fetch a tokeniser from the network
    )
    assert embeddings.embed_documents(["a", "bb"]) == [[1.0, 0.5], [2.0, 0.5]]


def test_prompts_are_carried_on_by_a_model_that_only_chats(
    gateway: Gateway, upstream: Upstream
) -> None:
    async def script(asked: Asked, peer: Peer) -> None:
        if asked.path == "/v1/completions":
            peer.answer(404, b'{"detail": "Not Found"}')
            return
        said = asked.json()["messages"][0]["content"]
        peer.answer(200, json.dumps(completion(said.upper())).encode())

    upstream.script = script
    llm = OpenAI(
        model="scripted/langchain-only-chats",
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr(KEY),
        max_retries=0,
    )
    found = llm.generate(["one", "two"])
    assert [each[0].text for each in found.generations] == ["ONE", "TWO"]
    assert (found.llm_output or {})["token_usage"]["total_tokens"] == 24
    assert "".join(llm.stream("three")) == "THREE"
