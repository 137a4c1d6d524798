"""Ollama's own API: `/api/chat`, `/api/generate`, `/api/embed`, `/api/tags`, `/api/show`.

A caller on the same wire has its body passed up with only the model changed and the lines passed
down; everybody else is translated (`ollama_request`, `ollama_stream`, `ollama_reply`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

import orjson

from chat.errors import GatewayError
from chat.relays import forwardable
from chat.requests import ChatRequest, EmbeddingsRequest
from chat.types import Batch, ModelInfo, Reply, RunningModel
from providers.adapters.base import ChatAdapter, Endpoint
from providers.adapters.ollama_embeddings import embed_payload, read_embedded
from providers.adapters.ollama_messages import Images, linked_images
from providers.adapters.ollama_models import read_processes, read_shown, read_tags
from providers.adapters.ollama_reply import read_reply
from providers.adapters.ollama_request import ANY_ANSWER, chat_payload
from providers.adapters.ollama_stream import OllamaStreamReader
from providers.adapters.open_stream import OpenStream, read_batches
from providers.adapters.openai_errors import error_of, read_error
from providers.capabilities import Capabilities
from providers.emulation.tool_choice import ToolPolicy
from providers.fetch import fetch_images
from providers.http import HttpClient, HttpReply, shared_client

_FACTS_TIMEOUT_S = 2.5
"""Of a listing's time, what is left to asking about each model."""
_FACTS_AT_ONCE = 8
_NO_IMAGES: Images = {}
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
_PORT = 11434


class OllamaAdapter(ChatAdapter):
    """The address is the server's root, as in OLLAMA_HOST; a trailing `/v1` is taken off."""

    kind: ClassVar[str] = "ollama"
    wire = "ollama"
    default_base_url: ClassVar[str | None] = "http://127.0.0.1:11434"
    defaults: ClassVar[Capabilities] = Capabilities(tool_choice=False, audio=False)

    def __init__(self, endpoint: Endpoint, http: HttpClient) -> None:
        super().__init__(endpoint, http)
        self._root = server_root(endpoint.base_url or self.default_base_url or "")
        self._headers = {"content-type": "application/json"}
        if endpoint.api_key:
            self._headers["authorization"] = f"Bearer {endpoint.api_key}"
        names = ("options", "keep_alive", "think")
        self._defaults = {
            name: endpoint.options[name] for name in names if name in endpoint.options
        }

    def capabilities_for(self, request: ChatRequest) -> Capabilities:
        """A `format` beside `tools` keeps a model from calling any (ollama #8095)."""
        capabilities = self.endpoint.capabilities
        native = request.wire == self.wire and request.native is not None
        if native or not request.params.tools or request.params.tool_choice == "none":
            return capabilities
        return capabilities.with_overrides({"structured_output": False, "json_mode": False})

    async def complete(self, request: ChatRequest) -> Reply:
        native = request.wire == self.wire and request.native is not None
        reply, policy = await self._ask(request)
        body = await self.read_whole(reply)
        return read_reply(body, request, self.endpoint, policy=policy, native=native)

    def stream(self, request: ChatRequest) -> AsyncGenerator[Batch]:
        return read_batches(partial(self._open_stream, request), self.endpoint)

    async def _open_stream(self, request: ChatRequest) -> OpenStream:
        native = request.wire == self.wire and request.native is not None
        reply, policy = await self._ask(request)
        reader = OllamaStreamReader(request, self.endpoint, policy=policy, native=native)
        return OpenStream(reply, reader)

    async def _ask(self, request: ChatRequest) -> tuple[HttpReply, ToolPolicy]:
        if request.wire == self.wire and request.native is not None:
            path = "/api/chat" if "messages" in request.native else "/api/generate"
            return await self._post(
                path, self._native_payload(request.native, request.dropped)
            ), ANY_ANSWER
        links = linked_images(request.params)
        images = _NO_IMAGES
        if links:
            images = await fetch_images(links, shared_client(self.endpoint.content_policy))
        payload, policy = chat_payload(
            request, self.endpoint, defaults=self._defaults, images=images
        )
        return await self._post("/api/chat", payload), policy

    async def embed(self, request: EmbeddingsRequest) -> Reply:
        """Through `/api/embed`, which takes text only. Raises InvalidRequest for token ids."""
        native = request.wire == self.wire and request.native is not None
        if native and request.native is not None:
            payload = self._native_payload(request.native, request.dropped)
        else:
            payload = embed_payload(request, model=self.endpoint.model, defaults=self._defaults)
        reply = await self._post("/api/embed", payload)
        body = await self.read_whole(reply)
        return read_embedded(body, request, model=self.endpoint.model, native=native)

    def _native_payload(self, native: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
        """A native body with only the model changed."""
        return {**forwardable(native, dropped), "model": self.endpoint.model}

    async def list_models(self) -> list[ModelInfo]:
        """The models at hand, each with what the server tells of it in the time there is."""
        models = read_tags(await self._read("GET", "/api/tags"))
        described = dict.fromkeys(range(len(models)))
        gate = asyncio.Semaphore(_FACTS_AT_ONCE)

        async def describe(at: int) -> None:
            with contextlib.suppress(GatewayError):  # a model without facts is still a model
                async with gate:
                    described[at] = await self.describe_model(models[at])

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FACTS_TIMEOUT_S), asyncio.TaskGroup() as group:
                for at in described:
                    group.create_task(describe(at))
        return [described[at] or model for at, model in enumerate(models)]

    async def list_running(self) -> list[RunningModel]:
        return read_processes(await self._read("GET", "/api/ps"))

    async def describe_model(self, model: ModelInfo) -> ModelInfo:
        """`model` with its capabilities and context window. Raises GatewayError."""
        return read_shown(await self._read("POST", "/api/show", {"model": model.id}), model)

    async def _read(
        self, method: str, path: str, payload: Mapping[str, Any] | None = None
    ) -> bytes:
        reply = await self._send(method, path, None if payload is None else orjson.dumps(payload))
        return await self.read_whole(reply)

    async def _post(self, path: str, payload: Mapping[str, Any]) -> HttpReply:
        return await self._send("POST", path, orjson.dumps(payload))

    async def _send(self, method: str, path: str, body: bytes | None) -> HttpReply:
        reply = await self.http.request(
            method,
            self._root + path,
            headers=self._headers,
            body=body,
            timeouts=self.endpoint.timeouts,
        )
        if reply.status != 200:
            raise error_of(reply, await read_error(reply), self.endpoint)
        return reply


def server_root(address: str) -> str:
    """Where the API's paths begin. OLLAMA_HOST is also what a server listens on: any address, as
    in 0.0.0.0, is asked on loopback, as Ollama's own client does."""
    root = address.rstrip("/").removesuffix("/v1").removesuffix("/api")
    parts = urlsplit(root)
    loopback = _LOOPBACK.get(parts.hostname or "")
    if loopback is None:
        return root
    return f"{parts.scheme}://{loopback}:{parts.port or _PORT}{parts.path}"
