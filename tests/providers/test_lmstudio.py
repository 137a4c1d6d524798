"""LM Studio's listing with the facts of its REST API, in the shapes its documentation shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chat.errors import UpstreamCredentials, UpstreamUnreachable
from chat.types import ModelInfo
from providers.adapters.base import Endpoint
from providers.adapters.lmstudio import LMStudioAdapter
from providers.http import HttpClient
from providers.outbound import OutboundGuard, OutboundPolicy
from tests.gateway import free_port

pytestmark = pytest.mark.once

LISTING = {
    "object": "list",
    "data": [
        {"id": "qwen2-vl-7b-instruct", "object": "model", "owned_by": "organization_owner"},
        {"id": "openai/gpt-oss-20b", "object": "model", "owned_by": "organization_owner"},
        {"id": "text-embedding-nomic-embed-text-v1.5", "object": "model"},
    ],
}
V1 = {
    "models": [
        {
            "type": "llm",
            "publisher": "openai",
            "key": "openai/gpt-oss-20b",
            "display_name": "GPT-OSS 20B",
            "loaded_instances": [
                {"id": "openai/gpt-oss-20b", "config": {"context_length": 8192, "parallel": 4}}
            ],
            "max_context_length": 131072,
            "capabilities": {
                "vision": False,
                "trained_for_tool_use": True,
                "reasoning": {"allowed_options": ["low", "high"], "default": "low"},
            },
        },
        {
            "type": "llm",
            "publisher": "mlx-community",
            "key": "qwen2-vl-7b-instruct",
            "loaded_instances": [],
            "max_context_length": 32768,
            "capabilities": {"vision": True, "trained_for_tool_use": False},
        },
        {
            "type": "embedding",
            "publisher": "nomic-ai",
            "key": "text-embedding-nomic-embed-text-v1.5",
            "loaded_instances": [],
            "max_context_length": 2048,
        },
    ]
}
V0 = {
    "object": "list",
    "data": [
        {
            "id": "qwen2-vl-7b-instruct",
            "type": "vlm",
            "publisher": "mlx-community",
            "state": "not-loaded",
            "max_context_length": 32768,
        },
        {
            "id": "openai/gpt-oss-20b",
            "type": "llm",
            "publisher": "openai",
            "state": "loaded",
            "max_context_length": 131072,
            "loaded_context_length": 4096,
            "capabilities": ["tool_use"],
        },
        {
            "id": "text-embedding-nomic-embed-text-v1.5",
            "type": "embeddings",
            "state": "not-loaded",
            "max_context_length": 2048,
        },
    ],
}
UNEXPECTED = {"error": "Unexpected endpoint or method. (GET /api/v1/models)"}


class LMStudio:
    """Answers each path with its status and body."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {"/v1/models": (200, LISTING)}
        self.asked: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        self.asked.append(path)
        status, told = self.answers.get(path, (200, UNEXPECTED))
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        writer.write(
            f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()


@pytest.fixture
async def studio() -> AsyncIterator[LMStudio]:
    studio = LMStudio()
    server = await asyncio.start_server(studio.serve, "127.0.0.1", 0)
    studio.port = server.sockets[0].getsockname()[1]
    async with server:
        yield studio


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    client = HttpClient(OutboundGuard(OutboundPolicy.for_providers()))
    yield client
    await client.aclose()


async def listed(http: HttpClient, port: int, path: str = "/v1") -> dict[str, ModelInfo]:
    endpoint = Endpoint(base_url=f"http://127.0.0.1:{port}{path}", api_key="", model="")
    models = await LMStudioAdapter(endpoint, http).list_models()
    return {model.id: model for model in models}


async def test_the_listing_is_enriched_from_the_v1_rest_api(
    studio: LMStudio, http: HttpClient
) -> None:
    studio.answers["/api/v1/models"] = (200, V1)
    models = await listed(http, studio.port)
    oss, qwen = models["openai/gpt-oss-20b"], models["qwen2-vl-7b-instruct"]
    embedder = models["text-embedding-nomic-embed-text-v1.5"]
    assert oss.context_window == 8192  # as it is loaded, not as it could be
    assert oss.capabilities == {
        "embeddings": False,
        "vision": False,
        "tools": True,
        "reasoning": True,
    }
    assert (qwen.context_window, qwen.owned_by) == (32768, "mlx-community")
    assert qwen.capabilities == {"embeddings": False, "vision": True, "tools": False}
    assert embedder.context_window == 2048
    assert embedder.capabilities is not None and embedder.capabilities["embeddings"]
    assert not embedder.capabilities["tools"]


@pytest.mark.parametrize("missing", [(200, UNEXPECTED), (404, {}), (200, b"<html>")])
async def test_an_older_server_is_asked_for_its_v0_facts(
    studio: LMStudio, http: HttpClient, missing: tuple[int, Any]
) -> None:
    studio.answers["/api/v1/models"] = missing
    studio.answers["/api/v0/models"] = (200, V0)
    models = await listed(http, studio.port)
    oss, qwen = models["openai/gpt-oss-20b"], models["qwen2-vl-7b-instruct"]
    assert oss.context_window == 4096
    assert oss.capabilities == {"embeddings": False, "vision": False, "tools": True}
    # Before 0.3.16 it did not say who can use tools: nothing is claimed.
    assert qwen.capabilities == {"embeddings": False, "vision": True}


async def test_a_server_without_any_rest_api_is_listed_without_facts(
    studio: LMStudio, http: HttpClient
) -> None:
    models = await listed(http, studio.port)
    assert models.keys() == {each["id"] for each in LISTING["data"]}  # type: ignore[index]
    assert all(model.context_window is None for model in models.values())


@pytest.mark.parametrize("odd", [{"models": 5}, {"models": [5, {"key": 7}, {}]}, [], {"data": {}}])
async def test_facts_in_odd_shapes_do_not_cost_the_listing(
    studio: LMStudio, http: HttpClient, odd: Any
) -> None:
    studio.answers["/api/v1/models"] = (200, odd)
    assert len(await listed(http, studio.port)) == 3


async def test_an_instance_under_a_name_of_its_own_has_its_own_window(
    studio: LMStudio, http: HttpClient
) -> None:
    studio.answers["/v1/models"] = (200, {"data": [{"id": "qwen:2"}, {"id": "qwen"}]})
    instances = [
        {"id": "qwen", "config": {"context_length": 4096}},
        {"id": "qwen:2", "config": {"context_length": 1024}},
    ]
    model = {"type": "llm", "key": "qwen", "max_context_length": 9, "loaded_instances": instances}
    studio.answers["/api/v1/models"] = (200, {"models": [model]})
    models = await listed(http, studio.port)
    assert {name: each.context_window for name, each in models.items()} == {
        "qwen": 4096,
        "qwen:2": 1024,
    }


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_its_address_may_be_its_root(studio: LMStudio, http: HttpClient, path: str) -> None:
    assert len(await listed(http, studio.port, path)) == 3
    assert {"/v1/models", "/api/v1/models"} <= set(studio.asked)


async def test_a_refused_token_is_told(studio: LMStudio, http: HttpClient) -> None:
    for each in ("/v1/models", "/api/v1/models", "/api/v0/models"):
        studio.answers[each] = (401, {"error": {"message": "no token"}})
    with pytest.raises(UpstreamCredentials):
        await listed(http, studio.port)


async def test_a_server_that_is_not_there_is_told(http: HttpClient) -> None:
    with pytest.raises(UpstreamUnreachable):
        await listed(http, free_port())
